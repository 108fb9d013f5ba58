"""The ``CPUExpertsInt4`` of the w4a8_int8 oracle."""

from __future__ import annotations

from moe_kernels.experts.cpu_experts import CPUExperts
from moe_kernels.modular_kernel import FusedMoEExpertsMonolithic


class CPUExpertsInt4(FusedMoEExpertsMonolithic, CPUExperts):
    """INT4 weights stored as int8, scaled per channel or in groups, from the router's logits.

    Activations are quantized to INT8 per token where the activation key says so; where it is
    None, as the rules for this class have it, they stay in the layer's dtype, which is closer to
    the model than vLLM's class comes. vLLM's ``cpu_int4_moe.py``.
    """

    weight_formats = ("int8",)
    activation_formats = (None, "int8")
