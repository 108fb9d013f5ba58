"""What experts in Triton share: a layer is two grouped GEMMs and a weighted sum."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
import triton

from moe_kernels.activation import ActivationParameters, activation_form
from moe_kernels.dtypes import torch_dtype
from moe_kernels.modular_kernel import FusedMoEExperts, PrepareResult
from moe_kernels.ops.fused_moe_gemm import fused_moe_gemm
from moe_kernels.ops.fused_moe_gemm_few_rows import (
    MOST_SUMMED,
    fused_moe_gemm_few_rows,
    has_few_rows_program,
)
from moe_kernels.ops.fused_moe_gemm_quantized import WeightTensors, fused_moe_gemm_quantized
from moe_kernels.ops.gemm_launch import FusedActivation, Pairs
from moe_kernels.ops.library import register_operator
from moe_kernels.ops.moe_align_block_size import moe_align_block_size
from moe_kernels.ops.moe_sum import moe_sum
from moe_kernels.ops.quantize_activations import quantize_activations
from moe_kernels.ops.quantize_scaled import quantize_scaled
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.routing import Routing
from moe_kernels.tensor_spec import spec_of
from moe_kernels.tiling.layer_config import layer_config
from moe_kernels.tiling.tile_config import FEW_ROWS, MAX_UNSORTED_PAIRS, TileConfig
from moe_rules.vocabulary.layer import FusedMoEConfig


def require_gpu(x: torch.Tensor) -> None:
    """Raise ValueError where Triton cannot run on ``x``. For within operators."""
    if x.device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise ValueError(f"experts in Triton need a GPU, hidden_states is on {x.device}")


def _fake_two_gemms(
    hidden_states: torch.Tensor, dtype: torch.dtype, unsummed: bool, *others: Any
) -> torch.Tensor:
    topk_ids = others[4]
    rows = topk_ids.shape[0] * topk_ids.shape[1] if unsummed else topk_ids.shape[0]
    return hidden_states.new_empty(rows, hidden_states.shape[1], dtype=dtype)


@register_operator(_fake_two_gemms)
def two_gemms(
    hidden_states: torch.Tensor,
    dtype: torch.dtype,
    unsummed: bool,
    hidden_states_scale: torch.Tensor | None,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor | None,
    topk_ids: torch.Tensor,
    global_num_experts: int,
    expert_map: torch.Tensor | None,
    activation: str,
    limit: float | None,
    alpha: float,
    beta: float,
    situ_beta: float,
    situ_linear_beta: float | None,
    weight_format: str | None,
    weight_block_shape: list[int] | None,
    activation_format: str | None,
    activation_group_shape: list[int] | None,
    native_mx: bool,
    w13_tensors: list[torch.Tensor | None],
    w2_tensors: list[torch.Tensor | None],
) -> torch.Tensor:
    """(Align, quantization,) GEMM and activation, (quantization,) GEMM, weighted sum.

    ``topk_weights`` None: the tokens are weighed already. ``weight_format``: of weights that are
    dequantized as they are loaded; None: they are multiplied as they are.
    ``activation_group_shape``: of the inputs of both GEMMs, None: they are not quantized; those
    of the first are, unless ``hidden_states`` are already;
    ``activation_format``: the format that ``weight_format`` goes with. ``w13_tensors``,
    ``w2_tensors``: :meth:`moe_kernels.quant_config.FusedMoEQuantConfig.gemm_tensors`.
    Returns [M, H] in ``dtype``; where ``unsummed``, [M * topk, H], the rows before the sum.
    """
    require_gpu(hidden_states)
    num_tokens, top_k = topk_ids.shape
    num_pairs, num_local_experts = num_tokens * top_k, w13.shape[0]
    if num_pairs == 0 or num_local_experts == 0:
        rows = num_pairs if unsummed else num_tokens
        return torch.zeros(rows, hidden_states.shape[1], dtype=dtype, device=hidden_states.device)
    routing = Routing(topk_ids.contiguous(), global_num_experts, expert_map)
    if topk_weights is not None:
        topk_weights = topk_weights.contiguous()
    block_shape, group_shape = _pair(weight_block_shape), _pair(activation_group_shape)
    num_local_pairs = num_pairs * num_local_experts / global_num_experts
    operands = w13.dtype if weight_format is None else dtype
    has_few_rows = not native_mx and all(
        w.data_ptr() % 16 == 0 and has_few_rows_program(operands, spec_of(w), block_shape)
        for w in (w13, w2)
    )
    sum_experts = num_tokens == 1 and num_pairs <= MOST_SUMMED and not unsummed
    config = layer_config(
        num_local_pairs,
        w13,
        w2,
        block_shape,
        weight_format=weight_format,
        dtype=dtype,
        few_rows=(num_pairs if sum_experts else 1) if has_few_rows else 0,
    )
    few_rows = config.up.block_m == FEW_ROWS
    pairs: Pairs = routing
    if num_pairs > MAX_UNSORTED_PAIRS or config.up.warp_specialized:
        pairs = moe_align_block_size(routing, config.up.block_m, num_local_experts)

    def gemm(
        a: torch.Tensor,
        a_scale: torch.Tensor | None,
        top_k: int,
        weight: torch.Tensor,
        tensors: list[torch.Tensor | None],
        tile: TileConfig,
        activation: FusedActivation | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        scale, zero_point, scale_2, bias = tensors[:4]
        if few_rows:
            return fused_moe_gemm_few_rows(
                a,
                WeightTensors(weight, scale, zero_point, scale_2),
                weight_format,
                pairs,
                num_pairs,
                top_k,
                tile,
                dtype,
                a_scale=a_scale,
                block_shape=block_shape,
                bias=bias,
                activation=activation,
                out=out,
                sum_experts=sum_experts and activation is None,
                topk_weights=topk_weights,
            )
        if weight_format is None:
            return fused_moe_gemm(
                a,
                weight,
                pairs,
                num_pairs,
                top_k,
                tile,
                dtype,
                a_scale=a_scale,
                b_scale=scale,
                block_shape=block_shape,
                bias=bias,
                activation=activation,
                out=out,
            )
        assert scale is not None
        return fused_moe_gemm_quantized(
            a,
            WeightTensors(weight, scale, zero_point, scale_2),
            weight_format,
            pairs,
            num_pairs,
            top_k,
            tile,
            dtype,
            a_scale=a_scale,
            bias=bias,
            activation=activation,
            native_mx=native_mx,
            out=out,
        )

    a2_scale, a2_scale_2 = w2_tensors[4:]
    if group_shape is not None and activation_format is None and hidden_states.dtype != w13.dtype:
        hidden_states, hidden_states_scale = quantize_scaled(
            hidden_states, group_shape, w13_tensors[4], w13.dtype, routing
        )
    intermediate = None
    if activation_format is not None:
        # Scales may be taken over all rows, also those that the GEMM does not write.
        rows = w13.shape[1] // 2 if activation_form(activation).gated else w13.shape[1]
        intermediate = torch.zeros(num_pairs, rows, dtype=dtype, device=w13.device)
    parameters = ActivationParameters(limit, alpha, beta, situ_beta, situ_linear_beta)
    intermediate = gemm(
        hidden_states,
        hidden_states_scale,
        top_k,
        w13,
        w13_tensors,
        config.up,
        FusedActivation(activation, parameters),
        intermediate,
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
    elif group_shape is not None:
        by_pairs = routing._replace(topk_ids=routing.topk_ids.view(-1, 1))
        intermediate, intermediate_scale = quantize_scaled(
            intermediate, group_shape, a2_scale, w2.dtype, by_pairs
        )
    expert_output = gemm(intermediate, intermediate_scale, 1, w2, w2_tensors, config.down)
    if unsummed or (few_rows and sum_experts):
        return expert_output
    return moe_sum(expert_output, topk_weights, routing)


def _pair(shape: list[int] | None) -> tuple[int, int] | None:
    return None if shape is None else (shape[0], shape[1])


class TwoGemmExperts(FusedMoEExperts):
    """Hands what the layer's config says to the operator. Layers in bf16, fp16 or fp32."""

    can_leave_sum = True
    packs_weights: ClassVar[bool]
    """Whether weights are dequantized as they are loaded."""
    _block_shape: list[int] | None = None
    _group_shape: list[int] | None = None
    _activation_format: str | None = None

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        self._dtype = torch_dtype(moe_config.in_dtype)

    @property
    def _native_mx(self) -> bool:
        """Whether mxfp8 is multiplied as such."""
        return False

    @abstractmethod
    def check_dtypes(
        self, hidden_states: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor
    ) -> None:
        """Raise ValueError for weights that are not what these experts take."""

    def apply(
        self, prepared: PrepareResult, w13: torch.Tensor, w2: torch.Tensor, activation: str
    ) -> torch.Tensor:
        """See :meth:`moe_kernels.modular_kernel.FusedMoEExperts.apply`.

        Raises ValueError for tensors on the CPU, and weights of another dtype than expected.
        """
        self.check_dtypes(prepared.hidden_states, w13, w2)
        w13_tensors, w2_tensors = self.quant_config.gemm_tensors()
        output: torch.Tensor = two_gemms(
            prepared.hidden_states,
            self._dtype,
            prepared.unsummed,
            prepared.hidden_states_scale,
            w13,
            w2,
            prepared.topk_weights,
            *prepared.routing,
            activation,
            *self.activation_parameters(activation),
            self.weight_format if self.packs_weights else None,
            self._block_shape,
            self._activation_format,
            self._group_shape,
            self._native_mx,
            w13_tensors,
            w2_tensors,
        )
        return output
