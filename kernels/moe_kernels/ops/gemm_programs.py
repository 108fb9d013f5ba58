"""What the programs of all grouped GEMMs do: find a tile, sum up, store what comes of it."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import triton
import triton.language as tl

from moe_kernels.ops.activation import activate
from moe_kernels.ops.programmatic_launch import (
    let_next_start,
    prefetch_rows,
    wait_for_previous,
)
from moe_kernels.ops.routing import pairs_of_ranks, pairs_of_slot


@dataclass(frozen=True, eq=False)
class Settings:
    """What a GEMM's kernel is compiled for, as far as both have it; passed as one constexpr.

    Made by :func:`settings_of`: objects that differ are other kernels to Triton.
    """

    sorted: bool
    has_expert_map: bool
    slots_are_experts: bool
    routing_is_older: bool
    """Whether the launch right before this one did not write the routing, unsorted."""
    pairs: int
    """At least as many as there are, where they are not sorted."""
    form: str
    """Of the activation (:mod:`moe_kernels.activation`), "" for the layer's second GEMM."""
    gated: bool
    interleaved: bool
    has_limit: bool
    has_situ_linear_beta: bool
    programmatic: bool
    has_bias: bool
    runs_of_8: bool
    """Whether 8 divides the width of the result."""
    mask_k: bool
    """Whether the last tile of columns is not full."""
    halves: bool
    """Whether the last block of an expert is computed in half the time if half of it is empty."""
    quantized: bool
    """Whether the result is quantized, which depends on what it is stored as before."""
    input_precision: str
    block_m: int
    block_n: int
    block_k: int
    group_m: int
    stages: int

    def __post_init__(self) -> None:
        # Within kernels, shapes take nothing else.
        for field in fields(self):
            object.__setattr__(self, field.name, tl.constexpr(getattr(self, field.name)))

    @property
    def split(self) -> tl.constexpr:
        """Whether rows of gates come first in the weight, and then as many of ups."""
        return tl.constexpr(bool(self.gated) and not bool(self.interleaved))


_S = TypeVar("_S", bound=Settings)


@functools.cache
def settings_of(kind: Callable[..., _S], **values: Any) -> _S:
    """The settings with these values, the same object every time."""
    return kind(**values)


@triton.jit
def sorted_tile(tile, num_tiles_m, num_tiles_n, S: tl.constexpr):
    """(tile_m, tile_n) of a tile's number, for sorted pairs; past the last tile, anything.

    Neighbours share rows of A within a group, and an expert's weights.
    """
    group = tile // (S.group_m * num_tiles_n)
    group_size = tl.minimum(num_tiles_m - group * S.group_m, S.group_m)
    in_group = tile % (S.group_m * num_tiles_n)
    # Past the last tile there is no group.
    group_size = tl.maximum(group_size, 1)
    return group * S.group_m + in_group % group_size, in_group // group_size


@triton.jit
def tile_of_program(sorted_pairs, routing, num_pairs, N, S: tl.constexpr):
    """(tile_n, expert (int64), number of rows, where :func:`_pairs_of_rows` finds the pairs).

    sorted_pairs: expert_ids and num_tokens_post_padded. routing: topk_ids, expert_map, and the
    number of experts.
    No rows: there is nothing to do. It waits for the kernel before this one, unless the routing is
    older: then that is left to do for programs with rows.
    """
    expert_ids_ptr, num_tokens_post_padded_ptr = sorted_pairs
    topk_ids_ptr, expert_map_ptr, num_experts = routing
    if S.routing_is_older:
        let_next_start(S.programmatic)
    else:
        wait_for_previous(S.programmatic)
    if S.sorted:
        # Tiles are numbered over the blocks that exist, not those the grid allows for.
        num_tiles_m = tl.load(num_tokens_post_padded_ptr) // S.block_m
        num_tiles_n = tl.cdiv(N, S.block_n)
        tile_m, tile_n = sorted_tile(tl.program_id(0), num_tiles_m, num_tiles_n, S)
        exists = tl.program_id(0) < num_tiles_m * num_tiles_n
        expert = tl.load(expert_ids_ptr + tile_m, mask=exists, other=0)
        num_rows = tl.where(exists, S.block_m, 0)
        where = tile_m * S.block_m
    else:
        tile_n = tl.program_id(0)
        expert, num_rows, where = pairs_of_slot(
            tl.program_id(1),
            tl.arange(0, S.pairs),
            topk_ids_ptr,
            num_pairs,
            expert_map_ptr,
            num_experts,
            S.has_expert_map,
            S.slots_are_experts,
            S.pairs,
        )
        if S.routing_is_older and (num_rows == 0) & (tile_n == 0):
            wait_for_previous(S.programmatic)  # one program's waiting is the kernel's
    return tile_n, expert.to(tl.int64), num_rows, where


@triton.jit
def wait_for_tokens(weight_rows_ptrs, num_bytes, S: tl.constexpr):
    """Wait for the kernel before this one if that is left to do.

    weight_rows_ptrs [N]: rows of ``num_bytes`` that are read next; they come in the meantime.
    """
    if S.routing_is_older:
        if S.programmatic:
            prefetch_rows(weight_rows_ptrs, num_bytes)
        wait_for_previous(S.programmatic)


@triton.jit
def _pairs_of_rows(
    start, num_rows, where, sorted_token_ids_ptr, num_pairs, S: tl.constexpr, ROWS: tl.constexpr
):
    """The pairs [ROWS] of the rows from ``start`` on, and which of them there are."""
    rows = start + tl.arange(0, ROWS)
    if S.sorted:
        pair = tl.load(sorted_token_ids_ptr + where + rows)
        mask = pair < num_pairs
    else:
        pair = pairs_of_ranks(where, rows, S.pairs)
        mask = rows < num_rows
    return pair, mask


@triton.jit
def weight_rows(index, tile_n, N, width, S: tl.constexpr):
    """The rows of the weight that ``index`` counts in a tile; those out of range are others.

    If gates come first and then the ups, of 16 rows 8 are gates and 8 the ups of the same columns
    of the result, so that one thread has both.
    """
    spare = index % 8 if S.runs_of_8 else index * 0
    if S.split:
        column = tile_n * (S.block_n // 2) + index // 16 * 8 + index % 8
        n = index % 16 // 8 * width + tl.where(column < width, column, spare)
    else:
        column = tile_n * S.block_n + index
        n = tl.where(column < N, column, spare)
    if S.runs_of_8:
        n = tl.max_contiguous(tl.multiple_of(n, 8), 8)
    return n


@triton.jit
def _store_result(accumulator, pair, pair_mask, result, S: tl.constexpr, ROWS: tl.constexpr):
    """Store the sums [ROWS, block_n], through the activation if there is one.

    result: out_ptr, tile_n, the width, and the activation's parameters, a tuple.
    """
    out_ptr, tile_n, width, parameters = result
    part_n: tl.constexpr = S.block_n // 2 if S.gated else S.block_n
    value = accumulator
    if S.form != "":
        if S.quantized:
            accumulator = accumulator.to(out_ptr.dtype.element_ty).to(tl.float32)
        gate = accumulator
        up = accumulator
        if S.interleaved:
            gate, up = tl.split(tl.reshape(accumulator, (ROWS, part_n, 2)))
        elif S.gated:
            halves = tl.reshape(accumulator, (ROWS, part_n // 8, 2, 8))
            gate, up = tl.split(tl.permute(halves, (0, 1, 3, 2)))
            gate = tl.reshape(gate, (ROWS, part_n))
            up = tl.reshape(up, (ROWS, part_n))
        value = activate(gate, up, parameters, S)
    column = tile_n * part_n + tl.arange(0, part_n)
    tl.store(
        out_ptr + pair[:, None].to(tl.int64) * width + column[None, :],
        value.to(out_ptr.dtype.element_ty),
        mask=pair_mask[:, None] & (column < width)[None, :],
    )


@triton.jit
def _compute_rows(
    sums, start, pairs, operands, bias_columns, result, S: tl.constexpr, ROWS: tl.constexpr
):
    """Compute and store the ROWS rows of a tile from ``start`` on."""
    where, num_rows, sorted_token_ids_ptr, num_pairs, top_k = pairs
    pair, pair_mask = _pairs_of_rows(
        start, num_rows, where, sorted_token_ids_ptr, num_pairs, S, ROWS
    )
    row = (pair // top_k).to(tl.int64)
    accumulator = sums(row, pair_mask, operands, S, ROWS)
    if S.has_bias:
        accumulator += tl.load(bias_columns).to(tl.float32)[None, :]
    _store_result(accumulator, pair, pair_mask, result, S, ROWS)


@triton.jit
def compute_tile(sums, pairs, operands, bias_columns, result, S: tl.constexpr):
    """Compute and store a tile.

    sums: a function (row [ROWS] of A, mask [ROWS], ``operands``, S, ROWS) that returns float32
    [ROWS, block_n], what the rows of A sum up to with the tile's rows of the weight.
    pairs: where, num_rows, sorted_token_ids_ptr, num_pairs, top_k.
    result: as :func:`_store_result` has it.
    """
    where, num_rows, sorted_token_ids_ptr, num_pairs, _ = pairs
    HALF: tl.constexpr = S.block_m // 2
    if S.halves:
        if tl.load(sorted_token_ids_ptr + where + HALF) >= num_pairs:
            _compute_rows(sums, 0, pairs, operands, bias_columns, result, S, HALF)
        else:
            _compute_rows(sums, 0, pairs, operands, bias_columns, result, S, S.block_m)
    else:
        for start in range(0, S.block_m if S.sorted else num_rows, S.block_m):
            _compute_rows(sums, start, pairs, operands, bias_columns, result, S, S.block_m)
