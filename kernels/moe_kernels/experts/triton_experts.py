"""``TritonExperts``: unquantized, FP8 and INT8 experts in Triton."""

from __future__ import annotations

import torch
import triton

from moe_kernels.activation import ActivationParameters
from moe_kernels.dtypes import torch_dtype
from moe_kernels.modular_kernel import FusedMoEExperts
from moe_kernels.ops.fused_moe_gemm import fused_moe_gemm
from moe_kernels.ops.gemm_programs import FusedActivation, Pairs, UnsortedPairs
from moe_kernels.ops.library import register_operator
from moe_kernels.ops.moe_align_block_size import moe_align_block_size
from moe_kernels.ops.moe_sum import moe_sum
from moe_kernels.ops.quantize_scaled import quantize_scaled
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.tiling.layer_config import layer_config
from moe_kernels.tiling.tile_config import MAX_UNSORTED_PAIRS
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import CHANNEL, TENSOR, TOKEN, QuantKey


def _require_gpu(x: torch.Tensor) -> None:
    if x.device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise ValueError(f"TritonExperts runs on a GPU, hidden_states is on {x.device}")


def _fake_quantize_input(
    x: torch.Tensor, dtype: torch.dtype, group_shape: list[int], scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = x.shape
    quantized = torch.empty(x.shape, dtype=dtype, device=x.device)
    if tuple(group_shape) == TENSOR:
        return quantized, x.new_empty(1, dtype=torch.float32)
    groups = 1 if tuple(group_shape) == TOKEN else -(-columns // group_shape[1])
    return quantized, x.new_empty(rows, groups, dtype=torch.float32)


@register_operator(_fake_quantize_input)
def quantize_input(
    x: torch.Tensor, dtype: torch.dtype, group_shape: list[int], scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`moe_kernels.ops.quantize_scaled.quantize_scaled` as an operator."""
    _require_gpu(x)
    quantized, computed = quantize_scaled(x, (group_shape[0], group_shape[1]), scale, dtype)
    # An operator may not return its own argument.
    return quantized, computed if scale is None else computed.clone()


def _fake_triton_experts(
    hidden_states: torch.Tensor, dtype: torch.dtype, *_: object
) -> torch.Tensor:
    return hidden_states.new_empty(hidden_states.shape, dtype=dtype)


@register_operator(_fake_triton_experts)
def triton_experts(
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
    weight_block_shape: list[int] | None,
    activation_group_shape: list[int] | None,
    w13_scale: torch.Tensor | None,
    w2_scale: torch.Tensor | None,
    a2_scale: torch.Tensor | None,
    w13_bias: torch.Tensor | None,
    w2_bias: torch.Tensor | None,
) -> torch.Tensor:
    """(Align,) GEMM and activation, GEMM, weighted sum; see :class:`TritonExperts`.

    ``topk_weights`` None: the tokens are weighed already. Returns [M, H] in ``dtype``.
    """
    _require_gpu(hidden_states)
    num_tokens, top_k = topk_ids.shape
    num_pairs = num_tokens * top_k
    if num_pairs == 0:
        return torch.zeros(hidden_states.shape, dtype=dtype, device=hidden_states.device)
    topk_ids = topk_ids.contiguous()
    if topk_weights is not None:
        topk_weights = topk_weights.contiguous()
    block_shape = _pair(weight_block_shape)
    num_local_pairs = num_pairs * w13.shape[0] / global_num_experts
    config = layer_config(num_local_pairs, w13, w2, block_shape)
    pairs: Pairs = UnsortedPairs(topk_ids, global_num_experts, expert_map)
    if num_pairs > MAX_UNSORTED_PAIRS:
        pairs = moe_align_block_size(
            topk_ids, config.up.block_m, w13.shape[0], global_num_experts, expert_map
        )
    group_shape = _pair(activation_group_shape)
    intermediate = None
    if group_shape == TENSOR and a2_scale is None:
        # The maximum is taken over all rows, also those that the GEMM does not write.
        intermediate = torch.zeros(num_pairs, w2.shape[2], dtype=dtype, device=w2.device)
    intermediate = fused_moe_gemm(
        hidden_states,
        w13,
        pairs,
        num_pairs,
        top_k,
        config.up,
        dtype,
        a_scale=hidden_states_scale,
        b_scale=w13_scale,
        block_shape=block_shape,
        bias=w13_bias,
        activation=FusedActivation(
            activation, ActivationParameters(limit, alpha, beta, situ_beta, situ_linear_beta)
        ),
        out=intermediate,
    )
    intermediate_scale = None
    if group_shape is not None:
        intermediate, intermediate_scale = quantize_scaled(
            intermediate, group_shape, a2_scale, w2.dtype
        )
    expert_output = fused_moe_gemm(
        intermediate,
        w2,
        pairs,
        num_pairs,
        1,
        config.down,
        dtype,
        a_scale=intermediate_scale,
        b_scale=w2_scale,
        block_shape=block_shape,
        bias=w2_bias,
    )
    return moe_sum(expert_output, topk_weights, topk_ids, global_num_experts, expert_map)


def _pair(shape: list[int] | None) -> tuple[int, int] | None:
    return None if shape is None else (shape[0], shape[1])


def _executes(weight_key: QuantKey | None, activation_key: QuantKey | None) -> bool:
    """Whether the computation above means this pair of keys."""
    if weight_key is None or activation_key is None:
        return weight_key is activation_key
    weight, activated = weight_key.scale, activation_key.scale
    if (weight_key.dtype, activation_key.dtype) == ("int8", "int8"):
        shapes = weight.group_shape, activated.group_shape
        known = shapes in ((CHANNEL, TOKEN), (TENSOR, TENSOR))
        return known and weight_key.symmetric and activation_key.symmetric and not activated.static
    if {weight_key.dtype, activation_key.dtype} != {"fp8_e4m3"}:
        return False
    if {weight.dtype, activated.dtype} != {"fp32"} or weight_key.scale2 or activation_key.scale2:
        return False
    if weight.group_shape in (TENSOR, CHANNEL):
        dynamic = not activated.static and activated.group_shape in (TENSOR, TOKEN)
        return weight.static and (dynamic or activated.group_shape == TENSOR)
    rows, columns = weight.group_shape
    grouped = activated.group_shape[0] == 1 and activated.group_shape[1] > 0
    return weight.static and rows > 0 and columns > 0 and not activated.static and grouped


class TritonExperts(FusedMoEExperts):
    """Experts for CUDA (and ROCm, XPU) in Triton.

    Takes layers in bf16, fp16 or fp32, unquantized or with FP8 weights and activations: per
    tensor (static or dynamic) or channel with tensor or token, or any blocks (r, c) with groups
    of (1, c); or with INT8: per channel with token, or per tensor with dynamic tensor, multiplied
    as integers. w13: [E, 2I, H], w2: [E, H, I], any strides; biases contiguous. Named after vLLM's
    ``fused_moe/experts/triton_moe.py``.
    """

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        if not _executes(quant_config.weight_key, quant_config.activation_key):
            raise ValueError(
                f"TritonExperts does not execute weights {quant_config.weight_key} with "
                f"activations {quant_config.activation_key}; expected no quantization, or FP8 "
                "weights per tensor or channel with FP8 activations per tensor or token, or in "
                "blocks with groups, or INT8 per channel with token or tensor with tensor"
            )
        self._dtype = torch_dtype(moe_config.in_dtype)
        group_shape = quant_config.activation_group_shape
        self._group_shape = None if group_shape is None else list(group_shape)
        block_shape = quant_config.weight_block_shape
        self._block_shape = None if block_shape is None else list(block_shape)

    def quantize_input(
        self, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values and their scales, as the activation key says; unquantized as they are."""
        if self._group_shape is None:
            return hidden_states, None
        quantized, scale = quantize_input(
            hidden_states,
            torch.int8 if self.weight_format == "int8" else torch.float8_e4m3fn,
            self._group_shape,
            self.quant_config.a13_scale,
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

        Raises ValueError if tokens and weights have different dtypes.
        """
        if not hidden_states.dtype == w13.dtype == w2.dtype:
            raise ValueError(
                f"TritonExperts multiplies like with like: tokens are {hidden_states.dtype}, "
                f"w13 {w13.dtype}, w2 {w2.dtype}"
            )
        config = self.quant_config
        output: torch.Tensor = triton_experts(
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
            self._block_shape,
            self._group_shape,
            config.w13_scale,
            config.w2_scale,
            config.a2_scale,
            config.w13_bias,
            config.w2_bias,
        )
        return output
