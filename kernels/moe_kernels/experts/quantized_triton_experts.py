"""Experts in Triton whose weights are dequantized in registers, under vLLM's class names.

Weights stay packed in memory. What differs between the classes is which formats they take, and
whether activations are quantized: as MXFP8 where the GPU multiplies that, else emulated, rounded to
the format's grid in the layer's dtype but for a scale of the whole tensor, which would not be exact
there.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from moe_kernels.experts.two_gemms import TwoGemmExperts
from moe_kernels.modular_kernel import FusedMoEExpertsMonolithic
from moe_kernels.ops.quantize_activations import quantize_activations
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.quantization.words import WORD_FORMATS, word_columns
from moe_kernels.routing import Routing
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import TENSOR


class QuantizedTritonExperts(TwoGemmExperts):
    """The common part of the classes below.

    w13 and w2 as :func:`moe_kernels.layouts.convert_to_kernel_format`
    has them: all but MXFP8 in the words of :mod:`moe_kernels.quantization.words`.
    """

    packs_weights = True
    weight_formats: ClassVar[tuple[str, ...]]
    """The formats of weights that the class takes."""
    activation_formats: ClassVar[tuple[str | None, ...]] = (None,)
    """The formats of activations that it takes, where it quantizes them."""

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        if self.quantizes_activations:
            self._activation_format = quant_config.activation_format
        if not self._executes():
            formats = [str(fmt) for fmt in self.activation_formats]
            raise ValueError(
                f"{type(self).__name__} does not execute weights {quant_config.weight_key} with "
                f"activations {quant_config.activation_key}; expected weights in the format "
                f"{' or '.join(self.weight_formats)}"
                + (f", activations {' or '.join(formats)}" if self.quantizes_activations else "")
            )
        if self._activation_format is not None:
            self._group_shape = list(quant_config.activation_group_shape or TENSOR)

    def _executes(self) -> bool:
        return (
            self.weight_format in self.weight_formats
            and self._activation_format in self.activation_formats
        )

    def weight_columns(self, columns: int) -> int:
        """See :meth:`moe_kernels.modular_kernel.FusedMoEExperts.weight_columns`."""
        if self.weight_format in WORD_FORMATS:
            return word_columns(columns, self.weight_format)
        return super().weight_columns(columns)

    def quantize_input(
        self, hidden_states: torch.Tensor, routing: Routing
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The activation key carried out; emulated, what remains is a factor for all, [1]."""
        if self._activation_format is None:
            return hidden_states, None
        config = self.quant_config
        if config.has_one_dynamic_scale:
            computed = (routing.local_experts() >= 0).any(1, keepdim=True)
            hidden_states = torch.where(computed, hidden_states, 0.0)
        quantized, scale = quantize_activations(
            hidden_states,
            self._activation_format,
            self._group_shape,
            config.a13_scale,
            config.a13_scale_2,
            not self._native_mx,
        )
        return quantized, scale

    def check_dtypes(
        self, hidden_states: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor
    ) -> None:
        """Weights have the dtype of their format, tokens the layer's or are quantized."""
        expected = {"int8": torch.int8, "mxfp8": torch.float8_e4m3fn}
        dtype = expected.get(str(self.weight_format), torch.uint8)
        taken = torch.float8_e4m3fn if self._native_mx else self._dtype
        if not w13.dtype == w2.dtype == dtype or hidden_states.dtype != taken:
            raise ValueError(
                f"{type(self).__name__} needs {dtype} weights and {self._dtype} tokens for "
                f"{self.quant_config.weight_key}, got w13 {w13.dtype}, w2 {w2.dtype}, tokens "
                f"{hidden_states.dtype}"
            )


class TritonWNA16Experts(QuantizedTritonExperts):
    """INT4 or INT8 weights in groups, with or without zero points; activations as they are."""

    quantizes_activations = False
    weight_formats = ("int4", "uint8")


class OAITritonExperts(QuantizedTritonExperts):
    """MXFP4 weights, 16-bit activations; biases and swigluoai as gpt-oss has them.

    vLLM's classes of this and the next two names run OpenAI's ``triton_kernels``; these are this
    package's own kernels.
    """

    weight_formats = ("mxfp4",)


class UnfusedOAITritonExperts(OAITritonExperts):
    """The same with the activation apart from the GEMMs, as it is here always."""


class OAITritonMxfp4ExpertsMonolithic(FusedMoEExpertsMonolithic, OAITritonExperts):
    """The same from the router's logits."""


class OCP_MXQuantizationEmulationTritonExperts(QuantizedTritonExperts):  # noqa: N801
    """MXFP4 or MXFP6 weights; activations as they are, or rounded to MXFP4, MXFP6 or FP8.

    Weights in MXFP6 are to be converted to MXFP8, whose elements hold all of MXFP6's
    (:func:`moe_kernels.layouts.convert_to_kernel_format` does it).
    """

    weight_formats = ("mxfp4", "mxfp8")
    activation_formats = (None, "mxfp4", "mxfp6_e3m2", "mxfp6_e2m3", "fp8")


class Nvfp4QuantizationEmulationTritonExperts(QuantizedTritonExperts):
    """NVFP4 weights; activations rounded to NVFP4."""

    weight_formats = ("nvfp4",)
    activation_formats = ("nvfp4",)


class Mxfp8EmulationTritonExperts(QuantizedTritonExperts):
    """MXFP8 weights; activations as they are, whatever their key says."""

    quantizes_activations = False
    weight_formats = ("mxfp8",)


class Mxfp8NativeTritonExperts(QuantizedTritonExperts):
    """MXFP8 weights and activations, multiplied as such where the GPU can (gfx950, gfx1250).

    Elsewhere activations are rounded to MXFP8's grid in the layer's dtype, with the same result.
    """

    weight_formats = ("mxfp8",)
    activation_formats = ("mxfp8",)

    @property
    def _native_mx(self) -> bool:
        if torch.version.hip is None:
            return False
        name = str(torch.cuda.get_device_properties().gcnArchName)
        return name.startswith(("gfx95", "gfx1250"))
