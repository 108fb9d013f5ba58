"""Activations over one scale per tensor, token or group of columns, as FP8 or INT8."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import NamedTuple

import torch
import triton

from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.ops.moe_align_block_size import SortedPairs
from moe_kernels.ops.programmatic_launch import is_programmatic, launch_attributes
from moe_kernels.ops.quantize_programs import (
    partial_amax_kernel,
    quantize_groups_kernel,
    quantize_tensor_kernel,
)
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
        quantize_groups_kernel,
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
    return Launcher(partial_amax_kernel, (_PARTIALS,), scalars, constants, **options)


def _tensor_launcher(x: TensorSpec, largest: float, dynamic: bool) -> Launcher:
    numel = x.shape.numel()
    return Launcher(
        quantize_tensor_kernel,
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
