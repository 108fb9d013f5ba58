"""Experts in Triton whose weights are dequantized in registers, under vLLM's class names.

Weights stay packed in memory. What differs between the classes is which formats they take, and
whether activations are quantized: as MXFP8 where the GPU multiplies that, else emulated, rounded to
the format's grid in the layer's dtype but for a scale of the whole tensor, which would not be exact
there.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import triton

from moe_kernels.activation import ActivationParameters, activation_form
from moe_kernels.dtypes import torch_dtype
from moe_kernels.modular_kernel import FusedMoEExperts, FusedMoEExpertsMonolithic
from moe_kernels.ops.fused_moe_gemm_quantized import (
    WeightTensors,
    fused_moe_gemm_quantized,
)
from moe_kernels.ops.gemm_programs import FusedActivation, Pairs, UnsortedPairs
from moe_kernels.ops.library import register_operator
from moe_kernels.ops.moe_align_block_size import moe_align_block_size
from moe_kernels.ops.moe_sum import moe_sum
from moe_kernels.ops.quantize_activations import quantize_activations
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.quantization.words import WORD_FORMATS, word_columns
from moe_kernels.tiling.layer_config import layer_config
from moe_kernels.tiling.tile_config import MAX_UNSORTED_PAIRS
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import TENSOR


def _fake_quantized_triton_experts(
    hidden_states: torch.Tensor, dtype: torch.dtype, *_: object
) -> torch.Tensor:
    return hidden_states.new_empty(hidden_states.shape, dtype=dtype)


@register_operator(_fake_quantized_triton_experts)
def quantized_triton_experts(
    hidden_states: torch.Tensor,
    dtype: torch.dtype,
    hidden_states_scale: torch.Tensor | None,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor | None,
    topk_ids: torch.Tensor,
    expert_map: torch.Tensor | None,
    global_num_experts: int,
    activation: str,
    limit: float | None,
    alpha: float,
    beta: float,
    situ_beta: float,
    situ_linear_beta: float | None,
    weight_format: str,
    activation_format: str | None,
    activation_group_shape: list[int],
    native_mx: bool,
    w13_scale: torch.Tensor,
    w2_scale: torch.Tensor,
    w13_zp: torch.Tensor | None,
    w2_zp: torch.Tensor | None,
    w13_scale_2: torch.Tensor | None,
    w2_scale_2: torch.Tensor | None,
    a2_scale: torch.Tensor | None,
    a2_scale_2: torch.Tensor | None,
    w13_bias: torch.Tensor | None,
    w2_bias: torch.Tensor | None,
) -> torch.Tensor:
    """(Align,) GEMM and activation, (quantization,) GEMM, weighted sum; see the classes below.

    ``topk_weights`` None: the tokens are weighed already. Returns [M, H] in ``dtype``.
    """
    num_tokens, top_k = topk_ids.shape
    num_pairs, num_local_experts = num_tokens * top_k, w13.shape[0]
    if num_pairs == 0:
        return torch.zeros(hidden_states.shape, dtype=dtype, device=hidden_states.device)
    topk_ids = topk_ids.contiguous()
    if topk_weights is not None:
        topk_weights = topk_weights.contiguous()
    routing = (topk_ids, global_num_experts, expert_map)
    num_local_pairs = num_pairs * num_local_experts / global_num_experts
    config = layer_config(num_local_pairs, w13, w2, weight_format=weight_format, dtype=dtype)
    pairs: Pairs = UnsortedPairs(*routing)
    if num_pairs > MAX_UNSORTED_PAIRS:
        pairs = moe_align_block_size(
            topk_ids, config.up.block_m, num_local_experts, global_num_experts, expert_map
        )
    intermediate = None
    if activation_format is not None:
        # Scales may be taken over all rows, also those that the GEMM does not write.
        rows = w13.shape[1] // 2 if activation_form(activation).gated else w13.shape[1]
        intermediate = torch.zeros(num_pairs, rows, dtype=dtype, device=w13.device)
    parameters = ActivationParameters(limit, alpha, beta, situ_beta, situ_linear_beta)
    intermediate = fused_moe_gemm_quantized(
        hidden_states,
        WeightTensors(w13, w13_scale, w13_zp, w13_scale_2),
        weight_format,
        pairs,
        num_pairs,
        top_k,
        config.up,
        dtype,
        a_scale=hidden_states_scale,
        bias=w13_bias,
        activation=FusedActivation(activation, parameters),
        native_mx=native_mx,
        out=intermediate,
    )
    intermediate_scale = None
    if activation_format is not None:
        intermediate, intermediate_scale = quantize_activations(
            intermediate,
            activation_format,
            activation_group_shape,
            a2_scale,
            a2_scale_2,
            not native_mx,
        )
    expert_output = fused_moe_gemm_quantized(
        intermediate,
        WeightTensors(w2, w2_scale, w2_zp, w2_scale_2),
        weight_format,
        pairs,
        num_pairs,
        1,
        config.down,
        dtype,
        a_scale=intermediate_scale,
        bias=w2_bias,
        native_mx=native_mx,
    )
    return moe_sum(expert_output, topk_weights, *routing)


class QuantizedTritonExperts(FusedMoEExperts):
    """The common part: what the layer's config says, handed to the operator.

    Layers in bf16, fp16 or fp32; w13 and w2 as :func:`moe_kernels.layouts.convert_to_kernel_format`
    has them: all but MXFP8 in the words of :mod:`moe_kernels.quantization.words`.
    """

    weight_formats: ClassVar[tuple[str, ...]]
    """The formats of weights that the class takes."""
    activation_formats: ClassVar[tuple[str | None, ...]] = (None,)
    """The formats of activations that it takes, where it quantizes them."""

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        self._activation_format = None
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
        self._dtype = torch_dtype(moe_config.in_dtype)
        self._group_shape = list(quant_config.activation_group_shape or TENSOR)

    def _executes(self) -> bool:
        return (
            self.weight_format in self.weight_formats
            and self._activation_format in self.activation_formats
        )

    @property
    def _native_mx(self) -> bool:
        return False

    def weight_columns(self, columns: int) -> int:
        """See :meth:`moe_kernels.modular_kernel.FusedMoEExperts.weight_columns`."""
        if self.weight_format in WORD_FORMATS:
            return word_columns(columns, self.weight_format)
        return super().weight_columns(columns)

    def quantize_input(
        self, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The activation key carried out; emulated, what remains is a factor for all, [1]."""
        if self._activation_format is None:
            return hidden_states, None
        config = self.quant_config
        quantized, scale = quantize_activations(
            hidden_states,
            self._activation_format,
            self._group_shape,
            config.a13_scale,
            config.a13_scale_2,
            not self._native_mx,
        )
        return quantized, scale

    def apply(
        self,
        hidden_states: torch.Tensor,
        hidden_states_scale: torch.Tensor | None,
        w13: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        *,
        activation: str,
        global_num_experts: int,
        expert_map: torch.Tensor | None,
        apply_router_weight_on_input: bool,
        expert_num_tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See :meth:`moe_kernels.modular_kernel.FusedMoEExperts.apply`.

        Raises ValueError for tensors on the CPU, and weights not in the dtype of their format.
        """
        name, config = type(self).__name__, self.quant_config
        if hidden_states.device.type == "cpu" and not triton.knobs.runtime.interpret:
            raise ValueError(f"{name} runs on a GPU, hidden_states is on {hidden_states.device}")
        expected = {"int8": torch.int8, "mxfp8": torch.float8_e4m3fn}
        dtype = expected.get(str(self.weight_format), torch.uint8)
        if not w13.dtype == w2.dtype == dtype:
            raise ValueError(
                f"{name} needs {dtype} weights for {config.weight_key}, got w13 {w13.dtype}, "
                f"w2 {w2.dtype}"
            )
        output: torch.Tensor = quantized_triton_experts(
            hidden_states,
            self._dtype,
            hidden_states_scale,
            w13,
            w2,
            None if apply_router_weight_on_input else topk_weights,
            topk_ids,
            expert_map,
            global_num_experts,
            activation,
            *self.activation_parameters(activation),
            self.weight_format,
            self._activation_format,
            self._group_shape,
            self._native_mx,
            config.w13_scale,
            config.w2_scale,
            config.w13_zp,
            config.w2_zp,
            config.w13_scale_2,
            config.w2_scale_2,
            config.a2_scale,
            config.a2_scale_2,
            config.w13_bias,
            config.w2_bias,
        )
        return output


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
