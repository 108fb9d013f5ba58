"""What a layer in Triton launches, worked out once for every number of tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton

from moe_kernels.activation import ActivationParameters
from moe_kernels.experts.weight_specs import WeightSpecs, check_weights
from moe_kernels.ops.fused_moe_gemm import prepared_gemm
from moe_kernels.ops.fused_moe_gemm_few_rows import (
    MOST_SUMMED,
    has_few_rows_program,
    prepared_gemm_few_rows,
    quantizes_rows,
)
from moe_kernels.ops.fused_moe_gemm_quantized import prepared_gemm_quantized
from moe_kernels.ops.gemm_launch import FusedActivation, Gemm, GemmCall
from moe_kernels.ops.launcher import Launcher
from moe_kernels.ops.moe_align_block_size import Sort, SortedTokens, prepared_sort, sorted_tokens
from moe_kernels.ops.moe_sum import sum_launcher
from moe_kernels.ops.quantize_activations import quantized_specs
from moe_kernels.ops.quantize_scaled import Quantization, SortedRows, prepared_quantization
from moe_kernels.tensor_spec import TensorSpec, contiguous_spec
from moe_kernels.tiling.layer_config import layer_config
from moe_kernels.tiling.tile_config import FEW_ROWS, MAX_UNSORTED_PAIRS, LayerConfig, TileConfig
from moe_kernels.tiling.tuned_configs import kept_while_tilings_hold
from moe_rules.vocabulary.quant_keys import TENSOR

_PRODUCTS = 2048
"""With so many rows of the weight to each of a token's, one is written for each local pair, sorted.

The GEMM loads those in fewer steps.
"""
_PRODUCTS_PER_PAIR = 4
"""Or with so many to each pair of an expert: of few, GEMMs wait for what they load.

For tokens that are not quantized; of others there is more to do than to copy them.
"""
_COPIED_BYTES = 25 << 20
"""Of FP8 tokens with one scale, which are copied once more: more would cost what it saves."""


def require_gpu(device: torch.device) -> None:
    """Raise ValueError where Triton cannot run on ``device``."""
    if device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise ValueError(f"experts in Triton need a GPU, hidden_states is on {device}")


class Scheme(NamedTuple):
    """How a layer is quantized, as :func:`moe_kernels.experts.two_gemms.two_gemms` has it."""

    weight_format: str | None
    block_shape: tuple[int, int] | None
    activation_format: str | None
    group_shape: tuple[int, int] | None
    native_mx: bool


class LayerLaunches(NamedTuple):
    """What is done in turn, None what is not."""

    quantize_tokens: Quantization | None
    sort: Sort | None
    sort_tokens: SortedTokens | None
    up: Gemm
    quantize_intermediate: Quantization | None
    down: Gemm
    sum: Launcher | None
    static_in_gemms: bool
    """Whether GEMMs take tokens that are not quantized, with a scale that is given."""


@kept_while_tilings_hold
def layer_launches(
    tokens: TensorSpec,
    tokens_scale: TensorSpec | None,
    dtype: torch.dtype,
    w13: WeightSpecs,
    w2: WeightSpecs,
    tokens_aligned: bool,
    weights_aligned: bool,
    top_k: int,
    num_experts: int,
    has_expert_map: bool,
    has_topk_weights: bool,
    unsummed: bool,
    activation: tuple[Any, ...],
    scheme: Scheme,
) -> LayerLaunches:
    """The launches of a call.

    tokens_aligned, weights_aligned: whether they begin at multiples of 16 bytes. activation: its
    name and parameters. Raises ValueError for tensors on a CPU, which Triton does not run on, and
    for what does not fit the weights.
    """
    require_gpu(tokens.device)
    hidden = tokens.shape[1]
    check_weights(w13, w2, hidden, activation[0], scheme.weight_format, scheme.block_shape)

    num_tokens, num_local_experts = tokens.shape[0], w13.values.shape[0]
    num_pairs = num_tokens * top_k
    of_one_token = num_tokens == 1 and num_pairs <= MAX_UNSORTED_PAIRS
    sum_experts = of_one_token and num_pairs <= MOST_SUMMED and not unsummed
    summed_at_once = num_pairs if sum_experts and not has_expert_map else 1
    operands = w13.values.dtype if scheme.weight_format is None else dtype
    has_few_rows = (
        weights_aligned
        and not scheme.native_mx
        and all(has_few_rows_program(operands, w.values, scheme.block_shape) for w in (w13, w2))
    )
    config = layer_config(
        num_pairs * num_local_experts / num_experts,
        w13.values,
        w2.values,
        scheme.block_shape,
        weight_format=scheme.weight_format,
        dtype=dtype,
        few_rows=summed_at_once if has_few_rows else 0,
    )
    few_rows = config.up.block_m == FEW_ROWS

    def in_gemm(weight: WeightSpecs) -> bool:
        """Whether the GEMM with ``weight`` quantizes its tokens."""
        group_shape = scheme.group_shape
        rows = (summed_at_once if weight is w2 else 1) if of_one_token else 0
        return (
            few_rows
            and scheme.weight_format is None
            and scheme.activation_format is None
            and group_shape is not None
            and quantizes_rows(rows, weight.values.shape[2], group_shape, weight.static)
        )

    def quantization(
        x: TensorSpec,
        weight: WeightSpecs,
        ids_per_row: int,
        older: bool = False,
        has_sorted_pairs: bool = False,
        sorted_rows: SortedRows | None = None,
    ) -> Quantization | None:
        """Of the input of the GEMM with ``weight``.

        older: whether the launch right before it does not write the routing.
        """
        dtype, group_shape = weight.values.dtype, scheme.group_shape
        if group_shape is None or scheme.activation_format is not None or x.dtype == dtype:
            return None
        if in_gemm(weight):
            return None
        routing = num_experts, ids_per_row, has_expert_map, has_sorted_pairs, older
        return prepared_quantization(x, group_shape, weight.static, dtype, *routing, sorted_rows)

    given, tokens_are_sorted, sort_tokens = tokens, False, None
    quantize_tokens = quantization(tokens, w13, top_k)
    if quantize_tokens is not None:
        tokens, tokens_scale = quantize_tokens.values, quantize_tokens.scale
        tokens_aligned = True
    if not (tokens_aligned and weights_aligned):
        config = LayerConfig(*(tile._replace(warp_specialized=False) for tile in config))
    sort = None
    if num_pairs > MAX_UNSORTED_PAIRS or config.up.warp_specialized:
        sizes = num_pairs, num_local_experts, config.up.block_m, num_experts
        sort = prepared_sort(*sizes, has_expert_map, tokens.device)

    def gemm(
        a: TensorSpec,
        a_scale: TensorSpec | None,
        pairs_per_row: int,
        weight: WeightSpecs,
        tile: TileConfig,
        fused: FusedActivation | None,
        a_is_sorted: bool,
        out_is_sorted: bool,
    ) -> Gemm:
        routing: tuple[int | None, bool, int] = (None, has_expert_map, num_experts)
        if sort is not None:
            routing = (sort.blocks, False, 0)
        call = GemmCall(
            *routing,
            num_pairs,
            pairs_per_row,
            tile,
            fused,
            dtype,
            weight.bias is not None,
            sort is None and (fused is None or quantize_tokens is not None),
            a_is_sorted,
            out_is_sorted,
        )
        values, scale, zero_point, scale_2 = weight[:4]
        if few_rows:
            return prepared_gemm_few_rows(
                call,
                a,
                a_scale,
                values,
                scale,
                zero_point is not None,
                scale_2,
                scheme.weight_format,
                scheme.block_shape,
                of_one_token,
                sum_experts and fused is None,
                has_topk_weights,
            )
        if scheme.weight_format is None:
            return prepared_gemm(call, a, values, a_scale, scale, scheme.block_shape)
        return prepared_gemm_quantized(
            call,
            a,
            a_scale,
            values,
            scale,
            zero_point is not None,
            scale_2,
            scheme.weight_format,
            scheme.native_mx,
        )

    static = contiguous_spec((1,), torch.float32, tokens.device)
    static_in_gemms = w13.static and w2.static and in_gemm(w13)
    if static_in_gemms and tokens_scale is None:
        tokens_scale = static
    name, *parameters = activation
    fused = FusedActivation(name, ActivationParameters(*parameters))

    def launches(sorted_rows: SortedRows | None) -> tuple[Gemm, Quantization | None, Gemm]:
        """Both GEMMs and what is between them. sorted_rows: of the intermediate."""
        is_sorted = sorted_rows is not None
        up = gemm(tokens, tokens_scale, top_k, w13, config.up, fused, tokens_are_sorted, is_sorted)
        intermediate = contiguous_spec(up.shape, dtype, tokens.device)
        scale: TensorSpec | None = static if static_in_gemms else None
        quantize = quantization(intermediate, w2, 1, sort is None, sort is not None, sorted_rows)
        if quantize is not None:
            intermediate, scale = quantize.values, quantize.scale
        elif scheme.activation_format is not None:
            intermediate, scale = quantized_specs(intermediate, not scheme.native_mx)
        return up, quantize, gemm(intermediate, scale, 1, w2, config.down, None, is_sorted, False)

    up, quantize_intermediate, down = launches(None)
    if sort is not None and up.takes_sorted_rows and down.takes_sorted_rows:
        rows = SortedRows(sort.size, num_pairs, False)
        least = _PRODUCTS * top_k * num_local_experts / num_experts
        if scheme.group_shape is None:
            least = min(least, _PRODUCTS_PER_PAIR * num_pairs / num_experts)
        worth = w13.values.shape[1] >= least
        if scheme.group_shape == TENSOR:
            worth = worth and sort.size * tokens.shape[1] <= _COPIED_BYTES
        if worth and scheme.group_shape in (None, TENSOR):
            sort_tokens = sorted_tokens(tokens, sort.size, top_k)
            tokens, tokens_are_sorted = sort_tokens.values, True
        elif worth and quantize_tokens is not None:
            quantize_tokens = quantization(given, w13, top_k, sorted_rows=rows)
            assert quantize_tokens is not None
            tokens, tokens_scale = quantize_tokens.values, quantize_tokens.scale
            tokens_are_sorted = True
        up, quantize_intermediate, down = launches(rows._replace(x_is_sorted=True))
    sum_pairs = None
    if not (unsummed or (few_rows and sum_experts)):
        has = has_topk_weights, has_expert_map
        sum_pairs = sum_launcher(num_tokens, top_k, down.shape[1], num_experts, *has, tokens.device)
    return LayerLaunches(
        quantize_tokens,
        sort,
        sort_tokens,
        up,
        quantize_intermediate,
        down,
        sum_pairs,
        static_in_gemms,
    )
