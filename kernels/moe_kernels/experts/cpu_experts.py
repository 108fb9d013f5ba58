"""Experts for CPUs in torch: tokens grouped by expert, one product per active expert and GEMM."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812

from moe_kernels.activation import ActivationParameters, apply_activation
from moe_kernels.library import register_operator
from moe_kernels.modular_kernel import FusedMoEExperts, FusedMoEExpertsMonolithic
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.quantization.fp8 import dequantize, widen_e4m3
from moe_kernels.quantization.schemes import QuantizedWeight, dequantize_format, fake_quantize
from moe_rules.layer import FusedMoEConfig
from moe_rules.quant_keys import TENSOR


def _fake_cpu_experts(
    hidden_states: torch.Tensor,
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
    weight_format: str | None,
    weight_group_shape: list[int],
    activation_format: str | None,
    activation_group_shape: list[int],
    w13_scale: torch.Tensor | None,
    w2_scale: torch.Tensor | None,
    w13_zp: torch.Tensor | None,
    w2_zp: torch.Tensor | None,
    w13_bias: torch.Tensor | None,
    w2_bias: torch.Tensor | None,
) -> torch.Tensor:
    return hidden_states.new_empty(hidden_states.shape)


@register_operator(_fake_cpu_experts)
def cpu_experts(
    hidden_states: torch.Tensor,
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
    weight_format: str | None,
    weight_group_shape: list[int],
    activation_format: str | None,
    activation_group_shape: list[int],
    w13_scale: torch.Tensor | None,
    w2_scale: torch.Tensor | None,
    w13_zp: torch.Tensor | None,
    w2_zp: torch.Tensor | None,
    w13_bias: torch.Tensor | None,
    w2_bias: torch.Tensor | None,
) -> torch.Tensor:
    """Run the layer expert by expert; arguments as in :class:`CPUUnquantizedExperts`.

    Weights in ``weight_format`` (:mod:`moe_kernels.quantization.schemes`) are dequantized to the
    dtype of ``hidden_states`` one expert at a time. With ``activation_format`` the inputs of both
    GEMMs are rounded to its grid and multiplied in float32, since bf16 does not hold a scaled
    value. ``topk_weights`` None: the tokens are weighed already.
    """
    num_tokens, top_k = topk_ids.shape
    parameters = ActivationParameters(limit, alpha, beta, situ_beta, situ_linear_beta)
    dtype = hidden_states.dtype
    compute_dtype = dtype if activation_format is None else torch.float32
    weight_groups = (weight_group_shape[0], weight_group_shape[1])
    activation_groups = (activation_group_shape[0], activation_group_shape[1])

    def weight(
        w: torch.Tensor, scale: torch.Tensor | None, zero_point: torch.Tensor | None, expert: int
    ) -> torch.Tensor:
        if weight_format is None or scale is None:
            return w[expert]
        if weight_format == "fp8":
            values = widen_e4m3(w[expert].contiguous())
            return dequantize(values, scale[expert] * 2.0**120, weight_groups, compute_dtype)
        zeros = None if zero_point is None else zero_point[expert]
        packed = QuantizedWeight(w[expert], scale[expert], zeros)
        return dequantize_format(packed, weight_format, weight_groups, compute_dtype)

    def as_quantized(x: torch.Tensor) -> torch.Tensor:
        if activation_format is None:
            return x
        return fake_quantize(x, activation_format, activation_groups, dtype=compute_dtype)

    def bias(b: torch.Tensor | None, expert: int) -> torch.Tensor | None:
        return None if b is None else b[expert].to(compute_dtype)

    ids = topk_ids.flatten().long()
    local = torch.where((ids >= 0) & (ids < global_num_experts), ids, -1)
    if expert_map is not None:
        local = torch.where(local >= 0, expert_map.long()[local], -1)
    # Pairs by expert, in order; those without a local expert first.
    order = torch.argsort(local, stable=True)
    counts = torch.bincount(local + 1, minlength=w13.shape[0] + 1).tolist()
    expert_output = hidden_states.new_zeros(num_tokens * top_k, hidden_states.shape[1])
    inputs = as_quantized(hidden_states)
    end = counts[0]
    for expert, count in enumerate(counts[1:]):
        if count == 0:
            continue
        pairs = order[end : end + count]
        end += count
        x = inputs[pairs // top_k]
        x = F.linear(x, weight(w13, w13_scale, w13_zp, expert), bias(w13_bias, expert))
        x = apply_activation(x.to(dtype).float(), activation, parameters)
        x = as_quantized(x.to(dtype))
        x = F.linear(x, weight(w2, w2_scale, w2_zp, expert), bias(w2_bias, expert))
        expert_output[pairs] = x.to(dtype)
    per_token = expert_output.view(num_tokens, top_k, hidden_states.shape[1])
    if topk_weights is None:
        return per_token.sum(dim=1, dtype=torch.float32).to(dtype)
    return torch.bmm(topk_weights.float()[:, None], per_token.float())[:, 0].to(dtype)


class CPUExperts(FusedMoEExperts):
    """The common part: what the layer's config says, handed to the operator.

    The products are those of torch's linear (oneDNN where it is built in), whatever the processor:
    vLLM's classes for one kind of processor are here others' under their names. Named after
    vLLM's ``fused_moe/experts/cpu_moe.py``.
    """

    weight_formats: ClassVar[tuple[str | None, ...]]
    """The formats of weights that the class takes; None: unquantized."""
    activation_formats: ClassVar[tuple[str | None, ...]] = (None,)
    """The formats of activations that it takes, where it quantizes them."""

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        weight, activation = quant_config.weight_key, quant_config.activation_key
        self._activation_format = None
        if self.quantizes_activations:
            self._activation_format = quant_config.activation_format
        static = activation is not None and activation.scale.static
        if (
            self.weight_format not in self.weight_formats
            or self._activation_format not in self.activation_formats
            or (self._activation_format is not None and static)
        ):
            formats = [fmt or "unquantized" for fmt in self.weight_formats]
            dynamic = [fmt for fmt in self.activation_formats if fmt is not None]
            activations = f" and dynamic {' or '.join(dynamic)} activations" if dynamic else ""
            raise ValueError(
                f"{type(self).__name__} executes {' or '.join(formats)} weights{activations}, got "
                f"weights {weight} and activations {activation}"
            )
        self._weight_groups = list(TENSOR if weight is None else weight.scale.group_shape)
        self._activation_groups = list(quant_config.activation_group_shape or TENSOR)

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

        Raises ValueError for tensors that are not on the CPU, or unquantized weights in another
        dtype than the tokens.
        """
        name, config = type(self).__name__, self.quant_config
        if hidden_states.device.type != "cpu":
            raise ValueError(f"{name} runs on the CPU, hidden_states is on {hidden_states.device}")
        fmt = self.weight_format
        expected = _DTYPES.get(fmt, torch.uint8) if fmt is not None else hidden_states.dtype
        if not expected == w13.dtype == w2.dtype:
            raise ValueError(
                f"{name} needs {expected} weights here, got w13 {w13.dtype}, w2 {w2.dtype}"
            )
        output: torch.Tensor = cpu_experts(
            hidden_states,
            w13,
            w2,
            None if apply_router_weight_on_input else topk_weights,
            topk_ids,
            expert_map,
            global_num_experts,
            activation,
            *self.activation_parameters(activation),
            self.weight_format,
            self._weight_groups,
            self._activation_format,
            self._activation_groups,
            config.w13_scale,
            config.w2_scale,
            config.w13_zp,
            config.w2_zp,
            config.w13_bias,
            config.w2_bias,
        )
        return output


class CPUUnquantizedExperts(CPUExperts):
    """Unquantized experts on any CPU, in bf16, fp16 or fp32."""

    weight_formats = (None,)


class X86CPUUnquantizedExperts(CPUUnquantizedExperts):
    """Unquantized experts on x86 with AMX."""


class ArmCPUUnquantizedExperts(CPUUnquantizedExperts):
    """Unquantized experts on Arm."""


class PowerCPUUnquantizedExperts(CPUUnquantizedExperts):
    """Unquantized experts on POWER."""


class CPUExpertsFp8W8A8(CPUExperts):
    """FP8 weights and dynamically quantized FP8 activations: block (r, c) with group (1, c)."""

    weight_formats = ("fp8",)
    activation_formats = ("fp8",)


class CPUExpertsFp8(CPUExperts):
    """FP8 weights, activations left in the layer's dtype (W8A16) whatever their key says."""

    weight_formats = ("fp8",)
    quantizes_activations = False


class CPUExpertsMxfp4(CPUExperts):
    """MXFP4 weights, activations left in the layer's dtype whatever their key says."""

    weight_formats = ("mxfp4",)
    quantizes_activations = False


class CPUExpertsInt8(CPUExperts):
    """INT8 weights scaled per channel, activations quantized per token."""

    weight_formats = ("int8",)
    activation_formats = ("int8",)


class ArmCPUExpertsInt8(CPUExpertsInt8):
    """INT8 experts on Arm."""


class PowerCPUExpertsInt8(CPUExpertsInt8):
    """INT8 experts on POWER."""


class ZenCPUExpertsInt8(CPUExpertsInt8):
    """INT8 experts on AMD's Zen."""


class CPUExpertsInt4(CPUExperts):
    """INT4 weights in groups, with or without zero points; 16-bit activations.

    The w4a8_int8 oracle's class of this name is another:
    :class:`moe_kernels.experts.cpu_int4_experts.CPUExpertsInt4`.
    """

    weight_formats = ("int4",)
    quantizes_activations = False


class ZentorchExpertsInt4(FusedMoEExpertsMonolithic, CPUExpertsInt4):
    """INT4 experts on AMD's Zen, from the router's logits. vLLM's ``zentorch_moe.py``."""


_DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
"""The dtypes of weights; formats that are not here are uint8."""
