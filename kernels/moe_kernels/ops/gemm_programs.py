"""What the grouped GEMMs share: a program's tile, what becomes of its sums, and launches."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from moe_kernels.activation import ActivationParameters, activation_form
from moe_kernels.ops.activation import activate
from moe_kernels.ops.moe_align_block_size import SortedPairs
from moe_kernels.ops.programmatic_launch import wait_for_previous
from moe_kernels.ops.routing import pairs_of_ranks, pairs_of_slot
from moe_kernels.tuning import MAX_UNSORTED_PAIRS


@triton.jit
def _sorted_tile(
    num_tokens_post_padded_ptr,
    N,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """(tile_m, tile_n, whether there is such a tile) of this program, for sorted pairs.

    Tiles are numbered over the blocks that exist, not those the grid allows for; neighbours share
    rows of A within a group, and an expert's weights.
    """
    num_tiles_m = tl.load(num_tokens_post_padded_ptr) // BLOCK_SIZE_M
    num_tiles_n = tl.cdiv(N, BLOCK_SIZE_N)
    tile = tl.program_id(0)
    group = tile // (GROUP_SIZE_M * num_tiles_n)
    group_size = tl.minimum(num_tiles_m - group * GROUP_SIZE_M, GROUP_SIZE_M)
    in_group = tile % (GROUP_SIZE_M * num_tiles_n)
    # Past the last tile there is no group.
    group_size = tl.maximum(group_size, 1)
    tile_m = group * GROUP_SIZE_M + in_group % group_size
    return tile_m, in_group // group_size, tile < num_tiles_m * num_tiles_n


@triton.jit
def tile_of_program(
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    num_experts,
    num_pairs,
    N,
    SORTED: tl.constexpr,
    HAS_EXPERT_MAP: tl.constexpr,
    SLOTS_ARE_EXPERTS: tl.constexpr,
    PAIRS: tl.constexpr,
    FIRST: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
):
    """(tile_n, expert (int64), number of rows, where :func:`pairs_of_tile` finds the pairs).

    No rows: there is nothing to do. FIRST: of the layer's GEMMs. It waits for the kernel before
    this one, unless this is the second one and pairs are not sorted: then that is left to do.
    """
    if SORTED or FIRST:
        wait_for_previous(PROGRAMMATIC)
    if SORTED:
        tile_m, tile_n, exists = _sorted_tile(
            num_tokens_post_padded_ptr, N, BLOCK_SIZE_M, BLOCK_SIZE_N, GROUP_SIZE_M
        )
        expert = tl.load(expert_ids_ptr + tile_m, mask=exists, other=0)
        num_rows = tl.where(exists, BLOCK_SIZE_M, 0)
        where = tile_m * BLOCK_SIZE_M
    else:
        tile_n = tl.program_id(0)
        expert, num_rows, where = pairs_of_slot(
            tl.program_id(1),
            topk_ids_ptr,
            num_pairs,
            expert_map_ptr,
            num_experts,
            HAS_EXPERT_MAP,
            SLOTS_ARE_EXPERTS,
            PAIRS,
        )
    return tile_n, expert.to(tl.int64), num_rows, where


@triton.jit
def pairs_of_tile(
    start,
    num_rows,
    where,
    sorted_token_ids_ptr,
    num_pairs,
    SORTED: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
):
    """The pairs [BLOCK_SIZE_M] of the rows from ``start`` on, and which of them there are."""
    rows = start + tl.arange(0, BLOCK_SIZE_M)
    if SORTED:
        pair = tl.load(sorted_token_ids_ptr + where + rows)
        mask = pair < num_pairs
    else:
        pair = pairs_of_ranks(where, rows, PAIRS)
        mask = rows < num_rows
    return pair, mask


@triton.jit
def weight_rows(
    tile_n,
    N,
    width,
    SPLIT: tl.constexpr,
    RUNS_OF_8: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
):
    """The rows [BLOCK_SIZE_N] of the weight that a tile has; those out of range are others.

    SPLIT: gates come first and then the ups, ``width`` each: of 16 rows 8 are gates and 8 the ups
    of the same columns of the result, so that one thread has both. RUNS_OF_8: 8 divides the width.
    """
    index = tl.arange(0, BLOCK_SIZE_N)
    spare = index % 8 if RUNS_OF_8 else index * 0
    if SPLIT:
        column = tile_n * (BLOCK_SIZE_N // 2) + index // 16 * 8 + index % 8
        n = index % 16 // 8 * width + tl.where(column < width, column, spare)
    else:
        column = tile_n * BLOCK_SIZE_N + index
        n = tl.where(column < N, column, spare)
    if RUNS_OF_8:
        n = tl.max_contiguous(tl.multiple_of(n, 8), 8)
    return n


@triton.jit
def store_result(
    accumulator,
    out_ptr,
    pair,
    pair_mask,
    tile_n,
    width,
    limit,
    alpha,
    beta,
    situ_beta,
    situ_linear_beta,
    FORM: tl.constexpr,
    GATED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
    HAS_SITU_LINEAR_BETA: tl.constexpr,
    QUANTIZED: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
):
    """Store the sums [BLOCK_SIZE_M, BLOCK_SIZE_N], through the activation if there is one."""
    part_n: tl.constexpr = BLOCK_SIZE_N // 2 if GATED else BLOCK_SIZE_N
    value = accumulator
    if FORM != "":
        if QUANTIZED:
            # What the result is quantized to depends on what the GEMM's is stored as.
            accumulator = accumulator.to(out_ptr.dtype.element_ty).to(tl.float32)
        gate = accumulator
        up = accumulator
        if GATED and INTERLEAVED:
            gate, up = tl.split(tl.reshape(accumulator, (BLOCK_SIZE_M, part_n, 2)))
        elif GATED:
            halves = tl.reshape(accumulator, (BLOCK_SIZE_M, BLOCK_SIZE_N // 16, 2, 8))
            gate, up = tl.split(tl.permute(halves, (0, 1, 3, 2)))
            gate = tl.reshape(gate, (BLOCK_SIZE_M, part_n))
            up = tl.reshape(up, (BLOCK_SIZE_M, part_n))
        value = activate(
            gate,
            up,
            limit,
            alpha,
            beta,
            situ_beta,
            situ_linear_beta,
            FORM,
            GATED,
            HAS_LIMIT,
            HAS_SITU_LINEAR_BETA,
        )
    column = tile_n * part_n + tl.arange(0, part_n)
    tl.store(
        out_ptr + pair[:, None].to(tl.int64) * width + column[None, :],
        value.to(out_ptr.dtype.element_ty),
        mask=pair_mask[:, None] & (column < width)[None, :],
    )


class UnsortedPairs(NamedTuple):
    """The routing as it is: topk_ids [M, topk], contiguous, and which experts are local."""

    topk_ids: torch.Tensor
    global_num_experts: int
    expert_map: torch.Tensor | None


Pairs = SortedPairs | UnsortedPairs


class FusedActivation(NamedTuple):
    """An activation that the GEMM's result goes through; see :mod:`moe_kernels.activation`."""

    name: str
    parameters: ActivationParameters


class RoutingArguments(NamedTuple):
    """The grid of a launch and what its programs are told of the routing."""

    grid: tuple[int, ...]
    positional: tuple[torch.Tensor | int | None, ...]
    """sorted_token_ids, expert_ids, num_tokens_post_padded, topk_ids, expert_map, num_experts."""
    constants: dict[str, Any]


def routing_arguments(
    pairs: Pairs, num_pairs: int, num_local_experts: int, num_tiles_n: int
) -> RoutingArguments:
    """How to launch a grouped GEMM over ``pairs``, with ``num_tiles_n`` tiles of columns."""
    slots_are_experts = num_pairs > num_local_experts
    if isinstance(pairs, SortedPairs):
        grid: tuple[int, ...] = (pairs.expert_ids.shape[0] * num_tiles_n,)
        constants = {"SORTED": True, "HAS_EXPERT_MAP": False, "SLOTS_ARE_EXPERTS": True, "PAIRS": 1}
        return RoutingArguments(grid, (*pairs, None, None, 0), constants)
    grid = (num_tiles_n, num_local_experts if slots_are_experts else num_pairs)
    return RoutingArguments(
        grid,
        (None, None, None, pairs.topk_ids, pairs.expert_map, pairs.global_num_experts),
        {
            "SORTED": False,
            "HAS_EXPERT_MAP": pairs.expert_map is not None,
            "SLOTS_ARE_EXPERTS": slots_are_experts,
            # Few sizes, so that few kernels are compiled.
            "PAIRS": 16 if num_pairs <= 16 else MAX_UNSORTED_PAIRS,
        },
    )


class ActivationArguments(NamedTuple):
    """What the programs of a launch are told of the activation."""

    positional: tuple[float, ...]
    """limit, alpha, beta, situ_beta, situ_linear_beta."""
    constants: dict[str, Any]


def activation_arguments(activation: FusedActivation | None) -> ActivationArguments:
    """How to launch a GEMM whose result goes through ``activation``, or through none."""
    form, gated, interleaved = "", False, False
    parameters = ActivationParameters()
    if activation is not None:
        form, gated, interleaved = activation_form(activation.name)
        parameters = activation.parameters
    return ActivationArguments(
        (
            parameters.limit or 0.0,
            parameters.alpha,
            parameters.beta,
            parameters.situ_beta,
            parameters.situ_linear_beta or 0.0,
        ),
        {
            "FORM": form,
            "GATED": gated,
            "INTERLEAVED": interleaved,
            "HAS_LIMIT": parameters.limit is not None,
            "HAS_SITU_LINEAR_BETA": parameters.situ_linear_beta is not None,
        },
    )
