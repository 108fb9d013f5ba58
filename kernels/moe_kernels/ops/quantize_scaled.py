"""Activations over one scale per tensor, token or group of columns, as FP8 or INT8."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.ops.moe_align_block_size import SortedPairs
from moe_kernels.ops.programmatic_launch import (
    is_programmatic,
    launch_attributes,
    let_next_start,
    wait_for_previous,
)
from moe_kernels.ops.quotient import bounded_quotient, quotient
from moe_kernels.ops.routing import local_expert
from moe_kernels.quantization.fp8 import MIN_AMAX
from moe_kernels.routing import Routing
from moe_kernels.tensor_spec import TensorSpec, contiguous_spec, spec_of
from moe_rules.vocabulary.quant_keys import TENSOR, TOKEN

_PARTIALS = 1024
"""How many partial maxima a per-tensor scale is taken from."""
_BLOCK = 1024
"""How many values a program takes at a time, for a per-tensor scale."""
_MOST_PROGRAMS = 8192
"""Where only some rows are quantized: to start a program takes longer than to pass over rows."""


class SortedRows(NamedTuple):
    """That there is to be a row for each of the sorted pairs, padding as well, which has no values.

    See :func:`moe_kernels.ops.moe_align_block_size.moe_align_block_size`.
    """

    number: int
    """Of rows, as many as sorted_token_ids."""
    num_pairs: int
    x_is_sorted: bool
    """Whether what is quantized has these rows already."""


@triton.jit
def _stored(x, scale, largest, dtype: tl.constexpr):
    """``x`` over its scale as ``dtype``; to integers, rounded to nearest even."""
    value = bounded_quotient(x, scale, largest)
    if dtype == tl.int8:
        # At 1.5 * 2^23 the lowest bit of a float32 counts ones.
        value = (value + 12582912.0) - 12582912.0
    return value.to(dtype)


@triton.jit(do_not_specialize=["num_experts", "num_pairs"])
def _quantize_groups_kernel(
    x_ptr,
    out_ptr,
    scale_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    sorted_token_ids_ptr,
    num_tokens_post_padded_ptr,
    num_experts,
    top_k,
    num_pairs,
    num_groups,
    groups_per_row,
    columns,
    stride_m,
    stride_k,
    stride_sm,
    stride_sk,
    min_amax,
    largest,
    GROUP: tl.constexpr,
    SOME_ROWS: tl.constexpr,
    SORTED: tl.constexpr,
    X_IS_SORTED: tl.constexpr,
    OUT_IS_SORTED: tl.constexpr,
    TOP_K: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    ROUTING_IS_OLDER: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    if ROUTING_IS_OLDER:
        let_next_start(PROGRAMMATIC)
    wait_for_previous(PROGRAMMATIC)
    offset = tl.arange(0, BLOCK_COLUMNS)
    end = num_groups
    if SORTED:
        end = tl.load(num_tokens_post_padded_ptr) * groups_per_row
    for start in range(tl.program_id(0) * BLOCK_GROUPS, end, tl.num_programs(0) * BLOCK_GROUPS):
        group = start + tl.arange(0, BLOCK_GROUPS)
        row = (group // groups_per_row).to(tl.int64)
        group = group % groups_per_row
        column = (group * GROUP)[:, None] + offset[None, :]
        exists = start + tl.arange(0, BLOCK_GROUPS) < end
        out_row = row
        if SORTED:
            # Padding is no pair.
            pair = tl.load(sorted_token_ids_ptr + row, mask=exists, other=num_pairs)
            exists &= pair < num_pairs
            if not X_IS_SORTED:
                row = (pair // top_k).to(tl.int64)
            if not OUT_IS_SORTED:
                out_row = row
        elif SOME_ROWS:
            slot = tl.arange(0, TOP_K)
            pair = row[:, None] * top_k + slot[None, :]
            known = exists[:, None] & (slot < top_k)[None, :]
            local = local_expert(topk_ids_ptr, pair, known, expert_map_ptr, num_experts, True)
            exists &= tl.max(local, 1) >= 0
        mask = exists[:, None] & (offset < GROUP)[None, :] & (column < columns)
        x_ptrs = x_ptr + row[:, None] * stride_m + column * stride_k
        x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
        scale = quotient(tl.maximum(tl.max(tl.abs(x), 1), min_amax), largest)
        value = _stored(x, scale[:, None], largest, out_ptr.dtype.element_ty)
        tl.store(out_ptr + out_row[:, None] * columns + column, value, mask=mask)
        tl.store(scale_ptr + out_row * stride_sm + group * stride_sk, scale, mask=exists)


@triton.jit(do_not_specialize=["rows", "num_experts", "num_pairs"])
def _partial_amax_kernel(
    x_ptr,
    partial_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    sorted_token_ids_ptr,
    num_tokens_post_padded_ptr,
    num_experts,
    top_k,
    num_pairs,
    rows,
    columns,
    stride_m,
    stride_k,
    HAS_ROUTING: tl.constexpr,
    X_IS_SORTED: tl.constexpr,
    HAS_EXPERT_MAP: tl.constexpr,
    TOP_K: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    PARTIALS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    wait_for_previous(PROGRAMMATIC)
    amax = tl.zeros((BLOCK,), dtype=tl.float32)
    blocks_per_row = tl.cdiv(columns, BLOCK)
    if X_IS_SORTED:
        rows = tl.load(num_tokens_post_padded_ptr)
    for block in range(tl.program_id(0), rows * blocks_per_row, PARTIALS):
        row = (block // blocks_per_row).to(tl.int64)
        column = block % blocks_per_row * BLOCK + tl.arange(0, BLOCK)
        end = columns
        if X_IS_SORTED:
            pair = tl.load(sorted_token_ids_ptr + row)
            end = tl.where(pair < num_pairs, columns, 0)
        elif HAS_ROUTING:
            slot = tl.arange(0, TOP_K)
            local = local_expert(
                topk_ids_ptr,
                row * top_k + slot,
                slot < top_k,
                expert_map_ptr,
                num_experts,
                HAS_EXPERT_MAP,
            )
            end = tl.where(tl.max(local, 0) >= 0, columns, 0)
        x_ptrs = x_ptr + row * stride_m + column * stride_k
        x = tl.load(x_ptrs, mask=column < end, other=0.0)
        amax = tl.maximum(amax, tl.abs(x.to(tl.float32)))
    tl.store(partial_ptr + tl.program_id(0), tl.max(amax, 0))


@triton.jit
def _quantize_tensor_kernel(
    x_ptr,
    out_ptr,
    partial_ptr,
    scale_ptr,
    numel,
    columns,
    stride_m,
    stride_k,
    min_amax,
    largest,
    DYNAMIC: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    PARTIALS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    wait_for_previous(PROGRAMMATIC)
    if DYNAMIC:
        # Every program takes the same maximum of the same partial maxima.
        amax = tl.max(tl.load(partial_ptr + tl.arange(0, PARTIALS)), 0)
        scale = quotient(tl.maximum(amax, min_amax), largest)
        tl.store(scale_ptr, scale)
    else:
        scale = tl.load(scale_ptr)
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < numel
    x_ptrs = x_ptr + index // columns * stride_m + index % columns * stride_k
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    value = _stored(x, scale, largest, out_ptr.dtype.element_ty)
    tl.store(out_ptr + index, value, mask=mask)


def quantize_scaled(
    x: torch.Tensor,
    group_shape: tuple[int, int],
    scale: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float8_e4m3fn,
    routing: Routing | None = None,
    pairs: SortedPairs | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize ``x`` [rows, K] (any strides), with scales computed from its values unless given.

    group_shape: TENSOR, TOKEN or (1, columns). ``scale``: one float32 element, TENSOR only.
    ``routing``: of the rows, topk_ids contiguous; a scale for all does not depend on rows without a
    local expert, and with an expert_map they are not written where rows have scales of their own.
    ``pairs``: of the routing, where rows are pairs; those with a local expert are found sooner.
    Returns the values as ``dtype`` [rows, K] and float32 scales: [1], [rows, 1] or
    [rows, ceil(K / columns)]. ``dtype``: an FP8 dtype, or int8, symmetric. The arithmetic is that
    of :func:`moe_kernels.quantization.fp8.quantize` and
    :func:`moe_kernels.quantization.integers.quantize_integer`. Raises ValueError for another group
    shape.
    """
    topk_ids, num_experts, expert_map = routing or (None, 0, None)
    top_k = 0 if topk_ids is None else topk_ids.shape[1]
    facts = group_shape, scale is not None, dtype, num_experts, top_k, expert_map is not None
    quantization = prepared_quantization(spec_of(x), *facts, pairs is not None)
    sorted_token_ids, _, end = (None, None, None) if pairs is None else pairs[:3]
    values, scales = quantization(x, scale, topk_ids, expert_map, sorted_token_ids, end)
    return values, scales.reshape(1) if group_shape == TENSOR else scales


class Quantization(NamedTuple):
    """:func:`quantize_scaled` made ready for tensors with certain specs."""

    values: TensorSpec
    scale: TensorSpec
    """Of scales that are computed."""
    amax: Launcher | None
    """What finds partial maxima first, where one scale is taken over all."""
    launcher: Launcher
    one_scale: bool

    def __call__(
        self,
        x: torch.Tensor,
        scale: torch.Tensor | None,
        topk_ids: torch.Tensor | None,
        expert_map: torch.Tensor | None,
        sorted_token_ids: torch.Tensor | None = None,
        num_tokens_post_padded: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The values and scales of ``x``."""
        out = x.new_empty(self.values.shape, dtype=self.values.dtype)
        if scale is None:
            scale = x.new_empty_strided(*self.scale[:2], dtype=torch.float32)
        if out.numel() == 0:
            return out, scale
        sorted_pairs = sorted_token_ids, num_tokens_post_padded
        if not self.one_scale:
            self.launcher(x, out, scale, topk_ids, expert_map, *sorted_pairs)
            return out, scale
        partial = None
        if self.amax is not None:
            partial = x.new_empty(_PARTIALS, dtype=torch.float32)
            self.amax(x, partial, topk_ids, expert_map, *sorted_pairs)
        self.launcher(x, out, partial, scale)
        return out, scale


@kept
def prepared_quantization(
    x: TensorSpec,
    group_shape: tuple[int, int],
    static: bool,
    dtype: torch.dtype,
    num_experts: int,
    top_k: int,
    has_expert_map: bool,
    has_sorted_pairs: bool = False,
    routing_is_older: bool = False,
    sorted_rows: SortedRows | None = None,
) -> Quantization:
    """:func:`quantize_scaled` for such tensors; ``top_k``: 0 without a routing.

    routing_is_older: whether the launch right before did not write the routing. sorted_rows: of
    values and scales; scales in groups then have rows as their last dimension in memory.
    """
    rows, columns = x.shape
    if sorted_rows is not None:
        rows = sorted_rows.number
    values = contiguous_spec((rows, columns), dtype, x.device)
    largest = float((torch.finfo if dtype.is_floating_point else torch.iinfo)(dtype).max)
    if group_shape == TENSOR:
        scale = contiguous_spec((1,), torch.float32, x.device)
        amax = None
        if not static:
            amax = _amax_launcher(x, num_experts, top_k, has_expert_map, sorted_rows)
        return Quantization(values, scale, amax, _tensor_launcher(x, largest, not static), True)
    if group_shape[0] != 1 or static:
        raise ValueError(
            "activations are quantized per tensor, per token or in groups of (1, columns), the "
            f"latter two dynamically; got group shape {group_shape}, static: {static}"
        )
    group = columns if group_shape == TOKEN else group_shape[1]
    scale = contiguous_spec((rows, -(-columns // group)), torch.float32, x.device)
    if sorted_rows is not None:
        scale = scale._replace(strides=(1, rows))
        has_sorted_pairs = True
    elif not has_expert_map:
        num_experts, top_k, has_sorted_pairs = 0, 0, False
    some = num_experts, top_k, has_sorted_pairs, sorted_rows
    launcher = _groups_launcher(x, scale, group, largest, *some, routing_is_older)
    return Quantization(values, scale, None, launcher, False)


def _groups_launcher(
    x: TensorSpec,
    scale: TensorSpec,
    group: int,
    largest: float,
    num_experts: int,
    top_k: int,
    has_sorted_pairs: bool,
    sorted_rows: SortedRows | None,
    routing_is_older: bool,
) -> Launcher:
    """``top_k``: 0 where all rows are quantized."""
    rows, groups_per_row = scale.shape
    columns = x.shape[1]
    num_pairs = rows * top_k if sorted_rows is None else sorted_rows.num_pairs
    num_groups = rows * groups_per_row
    block_columns = triton.next_power_of_2(group)
    block_groups = max(1, 2048 // block_columns)
    num_blocks = triton.cdiv(num_groups, block_groups)
    return Launcher(
        _quantize_groups_kernel,
        (min(num_blocks, _MOST_PROGRAMS) if top_k else num_blocks,),
        (
            num_experts,
            top_k,
            num_pairs,
            num_groups,
            groups_per_row,
            columns,
            *x.strides,
            *scale.strides,
            MIN_AMAX,
            largest,
        ),
        {
            "GROUP": group,
            "SOME_ROWS": top_k > 0,
            "SORTED": has_sorted_pairs,
            "X_IS_SORTED": sorted_rows is not None and sorted_rows.x_is_sorted,
            "OUT_IS_SORTED": sorted_rows is not None,
            "TOP_K": triton.next_power_of_2(max(1, top_k)),
            "PROGRAMMATIC": is_programmatic(x.device),
            "ROUTING_IS_OLDER": routing_is_older,
            "BLOCK_GROUPS": block_groups,
            "BLOCK_COLUMNS": block_columns,
        },
        num_warps=2 if block_columns <= 2048 else 8,
        **launch_attributes(x.device),
    )


def _amax_launcher(
    x: TensorSpec,
    num_experts: int,
    top_k: int,
    has_expert_map: bool,
    sorted_rows: SortedRows | None,
) -> Launcher:
    """``top_k``: 0 without a routing."""
    constants = {
        "HAS_ROUTING": top_k > 0,
        "X_IS_SORTED": sorted_rows is not None and sorted_rows.x_is_sorted,
        "HAS_EXPERT_MAP": has_expert_map,
        "TOP_K": triton.next_power_of_2(max(1, top_k)),
        "PROGRAMMATIC": is_programmatic(x.device),
        "PARTIALS": _PARTIALS,
        "BLOCK": min(_BLOCK, triton.next_power_of_2(x.shape[1])),
    }
    num_pairs = 0 if sorted_rows is None else sorted_rows.num_pairs
    scalars = (num_experts, max(1, top_k), num_pairs, *x.shape, *x.strides)
    options = launch_attributes(x.device)
    return Launcher(_partial_amax_kernel, (_PARTIALS,), scalars, constants, **options)


def _tensor_launcher(x: TensorSpec, largest: float, dynamic: bool) -> Launcher:
    numel = x.shape.numel()
    return Launcher(
        _quantize_tensor_kernel,
        (triton.cdiv(numel, _BLOCK),),
        (numel, x.shape[1], *x.strides, MIN_AMAX, largest),
        {
            "DYNAMIC": dynamic,
            "PROGRAMMATIC": is_programmatic(x.device),
            "PARTIALS": _PARTIALS,
            "BLOCK": _BLOCK,
        },
        **launch_attributes(x.device),
    )
