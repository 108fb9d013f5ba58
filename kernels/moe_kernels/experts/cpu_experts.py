"""Experts for CPUs in torch: tokens grouped by expert, one product per active expert and GEMM."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from moe_kernels.activation import ActivationParameters, apply_activation
from moe_kernels.library import register_operator
from moe_kernels.modular_kernel import FusedMoEExperts
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.quantization.fp8 import dequantize, quantize, widen_e4m3
from moe_rules.layer import FusedMoEConfig


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
    weight_group_shape: list[int] | None,
    activation_group_shape: list[int] | None,
    w13_scale: torch.Tensor | None,
    w2_scale: torch.Tensor | None,
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
    weight_group_shape: list[int] | None,
    activation_group_shape: list[int] | None,
    w13_scale: torch.Tensor | None,
    w2_scale: torch.Tensor | None,
    w13_bias: torch.Tensor | None,
    w2_bias: torch.Tensor | None,
) -> torch.Tensor:
    """Run the layer expert by expert; arguments as in :class:`CPUUnquantizedExperts`.

    With ``weight_group_shape`` the weights are FP8 with these scales, and are dequantized to the
    dtype of ``hidden_states`` one expert at a time. With ``activation_group_shape`` the inputs of
    both GEMMs are rounded to FP8 and multiplied in float32, since bf16 does not hold a scaled FP8
    value. ``topk_weights`` None: the tokens are weighed already.
    """
    num_tokens, top_k = topk_ids.shape
    parameters = ActivationParameters(limit, alpha, beta, situ_beta, situ_linear_beta)
    dtype = hidden_states.dtype
    compute_dtype = dtype if activation_group_shape is None else torch.float32

    def weight(w: torch.Tensor, scale: torch.Tensor | None, expert: int) -> torch.Tensor:
        if weight_group_shape is None or scale is None:
            return w[expert]
        shape = (weight_group_shape[0], weight_group_shape[1])
        values = widen_e4m3(w[expert].contiguous())
        return dequantize(values, scale[expert] * 2.0**120, shape, compute_dtype)

    def as_quantized(x: torch.Tensor) -> torch.Tensor:
        if activation_group_shape is None:
            return x
        shape = (activation_group_shape[0], activation_group_shape[1])
        return dequantize(*quantize(x, shape), shape, compute_dtype)

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
        x = F.linear(x, weight(w13, w13_scale, expert), bias(w13_bias, expert))
        x = apply_activation(x.to(dtype).float(), activation, parameters)
        x = as_quantized(x.to(dtype))
        x = F.linear(x, weight(w2, w2_scale, expert), bias(w2_bias, expert))
        expert_output[pairs] = x.to(dtype)
    per_token = expert_output.view(num_tokens, top_k, hidden_states.shape[1])
    if topk_weights is None:
        return per_token.sum(dim=1, dtype=torch.float32).to(dtype)
    return torch.bmm(topk_weights.float()[:, None], per_token.float())[:, 0].to(dtype)


class _CPUExperts(FusedMoEExperts):
    """The common part: what the layer's config says, handed to the operator."""

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        name, key = type(self).__name__, quant_config.weight_key
        if key is not None and (key.dtype != "fp8_e4m3" or key.scale2 is not None):
            raise ValueError(f"{name} executes FP8 weights, got {key}")
        self._weight_group_shape = None if key is None else list(key.scale.group_shape)
        self._activation_group_shape = None
        if self.quantizes_activations and quant_config.activation_group_shape is not None:
            self._activation_group_shape = list(quant_config.activation_group_shape)

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
        expected = hidden_states.dtype if config.weight_key is None else torch.float8_e4m3fn
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
            self._weight_group_shape,
            self._activation_group_shape,
            config.w13_scale,
            config.w2_scale,
            config.w13_bias,
            config.w2_bias,
        )
        return output


class CPUUnquantizedExperts(_CPUExperts):
    """Unquantized experts on any CPU, in bf16, fp16 or fp32.

    The products are those of torch's linear (oneDNN where it is built in), so the classes for
    x86 with AMX, Arm and POWER are this one under their names in vLLM's
    ``fused_moe/experts/cpu_moe.py``.
    """

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        if quant_config.weight_key is not None or quant_config.activation_key is not None:
            raise ValueError(
                f"{type(self).__name__} executes unquantized layers, got weights "
                f"{quant_config.weight_key} and activations {quant_config.activation_key}"
            )


class X86CPUUnquantizedExperts(CPUUnquantizedExperts):
    """Unquantized experts on x86 with AMX."""


class ArmCPUUnquantizedExperts(CPUUnquantizedExperts):
    """Unquantized experts on Arm."""


class PowerCPUUnquantizedExperts(CPUUnquantizedExperts):
    """Unquantized experts on POWER."""


class CPUExpertsFp8W8A8(_CPUExperts):
    """FP8 weights and dynamically quantized FP8 activations: block (r, c) with group (1, c)."""

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        if quant_config.weight_key is None:
            raise ValueError(f"{type(self).__name__} executes FP8 weights, got unquantized ones")
        key = quant_config.activation_key
        if self.quantizes_activations and (key is None or key.scale.static):
            raise ValueError(
                f"{type(self).__name__} quantizes activations dynamically, got key {key}"
            )


class CPUExpertsFp8(CPUExpertsFp8W8A8):
    """FP8 weights, activations left in the layer's dtype (W8A16) whatever their key says."""

    quantizes_activations = False
