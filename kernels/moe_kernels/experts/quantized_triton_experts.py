"""Experts in Triton whose weights are dequantized in registers, under vLLM's class names.

Weights stay packed in memory. What differs between the classes is which formats they take, and
whether activations are quantized: really, as INT8 or MXFP8, or emulated, rounded to the format's
grid in the layer's dtype but for a scale of the whole tensor, which would not be exact there.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import triton

from moe_kernels.activation import ActivationParameters
from moe_kernels.dtypes import torch_dtype
from moe_kernels.library import register_operator
from moe_kernels.modular_kernel import FusedMoEExperts, FusedMoEExpertsMonolithic
from moe_kernels.ops.activation import activation as activation_op
from moe_kernels.ops.fused_moe_gemm_quantized import (
    WeightTensors,
    block_m,
    fused_moe_gemm_quantized,
)
from moe_kernels.ops.moe_align_block_size import moe_align_block_size
from moe_kernels.ops.moe_sum import moe_sum
from moe_kernels.ops.quantize_activations import quantize_activations
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_rules.layer import FusedMoEConfig
from moe_rules.quant_keys import CHANNEL, TENSOR, TOKEN


def _fake_quantized_triton_experts(
    hidden_states: torch.Tensor,
    hidden_states_scale: torch.Tensor | None,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor | None,
    topk_ids: torch.Tensor,
    expert_map: torch.Tensor | None,
    global_num_experts: int,
    dtype: torch.dtype,
    activation: str,
    limit: float | None,
    alpha: float,
    beta: float,
    situ_beta: float,
    situ_linear_beta: float | None,
    weight_format: str,
    activation_format: str | None,
    activation_group_shape: list[int],
    emulate: bool,
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
    return hidden_states.new_empty(hidden_states.shape, dtype=dtype)


@register_operator(_fake_quantized_triton_experts)
def quantized_triton_experts(
    hidden_states: torch.Tensor,
    hidden_states_scale: torch.Tensor | None,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor | None,
    topk_ids: torch.Tensor,
    expert_map: torch.Tensor | None,
    global_num_experts: int,
    dtype: torch.dtype,
    activation: str,
    limit: float | None,
    alpha: float,
    beta: float,
    situ_beta: float,
    situ_linear_beta: float | None,
    weight_format: str,
    activation_format: str | None,
    activation_group_shape: list[int],
    emulate: bool,
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
    """Align, GEMM, activation, (quantization,) GEMM, weighted sum; see the classes below.

    ``topk_weights`` None: the tokens are weighed already. Returns [M, H] in ``dtype``.
    """
    num_tokens, top_k = topk_ids.shape
    num_pairs, num_local_experts = num_tokens * top_k, w13.shape[0]
    if num_pairs == 0:
        return torch.zeros(hidden_states.shape, dtype=dtype, device=hidden_states.device)
    topk_ids = topk_ids.contiguous()
    routing = (topk_ids, global_num_experts, expert_map)
    block_size_m = block_m(num_pairs, num_local_experts)
    alignment = moe_align_block_size(
        topk_ids, block_size_m, num_local_experts, global_num_experts, expert_map
    )

    def gemm(
        a: torch.Tensor,
        a_scale: torch.Tensor | None,
        b: WeightTensors,
        bias: torch.Tensor | None,
        rows_per_token: int,
    ) -> torch.Tensor:
        return fused_moe_gemm_quantized(
            a,
            b,
            weight_format,
            *alignment,
            num_pairs,
            rows_per_token,
            block_size_m,
            dtype,
            a_scale=a_scale,
            bias=bias,
            native_mx=native_mx,
        )

    up = WeightTensors(w13, w13_scale, w13_zp, w13_scale_2)
    intermediate = gemm(hidden_states, hidden_states_scale, up, w13_bias, top_k)
    parameters = ActivationParameters(limit, alpha, beta, situ_beta, situ_linear_beta)
    intermediate = activation_op(intermediate, activation, parameters, *routing)
    intermediate_scale = None
    if activation_format is not None:
        intermediate, intermediate_scale = quantize_activations(
            intermediate, activation_format, activation_group_shape, a2_scale, a2_scale_2, emulate
        )
    down = WeightTensors(w2, w2_scale, w2_zp, w2_scale_2)
    expert_output = gemm(intermediate, intermediate_scale, down, w2_bias, 1)
    weights = None if topk_weights is None else topk_weights.contiguous()
    return moe_sum(expert_output, weights, *routing)


class QuantizedTritonExperts(FusedMoEExperts):
    """The common part: what the layer's config says, handed to the operator.

    Layers in bf16, fp16 or fp32; w13 and w2 contiguous in their last dimension and in the layouts
    of :mod:`moe_kernels.quantization.schemes`; scales and zero points contiguous.
    """

    weight_formats: ClassVar[tuple[str, ...]]
    """The formats of weights that the class takes."""
    activation_formats: ClassVar[tuple[str | None, ...]] = (None,)
    """The formats of activations that it takes, where it quantizes them."""
    emulates_activations: ClassVar[bool] = True
    """Whether activations are rounded in the layer's dtype instead of being stored quantized."""

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
            self.emulates_activations,
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
            hidden_states_scale,
            w13,
            w2,
            None if apply_router_weight_on_input else topk_weights,
            topk_ids,
            expert_map,
            global_num_experts,
            self._dtype,
            activation,
            *self.activation_parameters(activation),
            self.weight_format,
            self._activation_format,
            self._group_shape,
            self.emulates_activations,
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


class TritonInt8Experts(QuantizedTritonExperts):
    """INT8 weights and activations: what ``TritonExperts`` does for INT8 keys.

    Channel scales with dynamic token scales, or tensor with dynamic tensor. The products are of
    integers, summed in int32.
    """

    weight_formats = ("int8",)
    activation_formats = ("int8",)
    emulates_activations = False

    def _executes(self) -> bool:
        weight, activation = self.quant_config.weight_key, self.quant_config.activation_key
        if weight is None or activation is None or not super()._executes():
            return False
        shapes = weight.scale.group_shape, activation.scale.group_shape
        known = shapes in ((CHANNEL, TOKEN), (TENSOR, TENSOR))
        return known and weight.symmetric and activation.symmetric and not activation.scale.static


class TritonWNA16Experts(QuantizedTritonExperts):
    """INT4 or INT8 weights in groups, with or without zero points; activations as they are."""

    quantizes_activations = False
    weight_formats = ("int4", "uint8")


class OAITritonExperts(QuantizedTritonExperts):
    """MXFP4 weights, 16-bit activations; biases and swigluoai as gpt-oss has them.

    vLLM's classes of this and the next two names run OpenAI's ``triton_kernels``; these are this
    package's own kernels, so that w13 and w2 keep the checkpoint's layout (no swizzle).
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

    Elsewhere both are dequantized in registers, with the same result.
    """

    weight_formats = ("mxfp8",)
    activation_formats = ("mxfp8",)
    emulates_activations = False

    @property
    def _native_mx(self) -> bool:
        if torch.version.hip is None:
            return False
        name = str(torch.cuda.get_device_properties().gcnArchName)
        return name.startswith(("gfx95", "gfx1250"))
