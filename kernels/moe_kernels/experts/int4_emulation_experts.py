"""``Int4EmulationTritonExperts``: INT4 weights dequantized when they are loaded."""

from __future__ import annotations

from moe_kernels.experts.triton_experts import TritonExperts
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_rules.vocabulary.layer import FusedMoEConfig


class Int4EmulationTritonExperts(TritonExperts):
    """``TritonExperts`` on weights that were INT4 and are unquantized by now.

    :func:`moe_kernels.layouts.convert_to_kernel_format` dequantizes them, activation ordering
    and all; memory then holds four times as much. vLLM's ``int4_emulation_moe.py``.
    """

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        if quant_config.weight_key is not None or quant_config.activation_key is not None:
            raise ValueError(
                "Int4EmulationTritonExperts executes weights that are dequantized when loaded "
                "(moe_kernels.layouts.convert_to_kernel_format), got weights "
                f"{quant_config.weight_key} and activations {quant_config.activation_key}"
            )
        super().__init__(moe_config, quant_config)
