"""What the grouped GEMMs share: a program's tile, what becomes of its sums, and launches."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

import torch
import triton
import triton.language as tl

from moe_kernels.activation import ActivationParameters, activation_form
from moe_kernels.ops.activation import activate
from moe_kernels.ops.moe_align_block_size import SortedPairs
from moe_kernels.ops.programmatic_launch import wait_for_previous
from moe_kernels.ops.routing import pairs_of_ranks, pairs_of_slot
from moe_kernels.tiling.tile_config import MAX_UNSORTED_PAIRS, TileConfig


@dataclass(frozen=True, eq=False)
class Settings:
    """What a GEMM's kernel is compiled for, as far as both have it; passed as one constexpr.

    Made by :func:`settings_of`: Triton asks at every launch whether it has compiled for these, and
    for the same object that is a matter of its address.
    """

    sorted: bool
    has_expert_map: bool
    slots_are_experts: bool
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
def _sorted_tile(num_tokens_post_padded_ptr, N, S: tl.constexpr):
    """(tile_m, tile_n, whether there is such a tile) of this program, for sorted pairs.

    Tiles are numbered over the blocks that exist, not those the grid allows for; neighbours share
    rows of A within a group, and an expert's weights.
    """
    num_tiles_m = tl.load(num_tokens_post_padded_ptr) // S.block_m
    num_tiles_n = tl.cdiv(N, S.block_n)
    tile = tl.program_id(0)
    group = tile // (S.group_m * num_tiles_n)
    group_size = tl.minimum(num_tiles_m - group * S.group_m, S.group_m)
    in_group = tile % (S.group_m * num_tiles_n)
    # Past the last tile there is no group.
    group_size = tl.maximum(group_size, 1)
    tile_m = group * S.group_m + in_group % group_size
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
    S: tl.constexpr,
):
    """(tile_n, expert (int64), number of rows, where :func:`pairs_of_tile` finds the pairs).

    No rows: there is nothing to do. It waits for the kernel before this one, unless this is the
    second GEMM and pairs are not sorted: then that is left to do.
    """
    if S.sorted or S.form != "":
        wait_for_previous(S.programmatic)
    if S.sorted:
        tile_m, tile_n, exists = _sorted_tile(num_tokens_post_padded_ptr, N, S)
        expert = tl.load(expert_ids_ptr + tile_m, mask=exists, other=0)
        num_rows = tl.where(exists, S.block_m, 0)
        where = tile_m * S.block_m
    else:
        tile_n = tl.program_id(0)
        expert, num_rows, where = pairs_of_slot(
            tl.program_id(1),
            topk_ids_ptr,
            num_pairs,
            expert_map_ptr,
            num_experts,
            S.has_expert_map,
            S.slots_are_experts,
            S.pairs,
        )
    return tile_n, expert.to(tl.int64), num_rows, where


@triton.jit
def pairs_of_tile(
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
def weight_rows(tile_n, N, width, S: tl.constexpr):
    """The rows [block_n] of the weight that a tile has; those out of range are others.

    If gates come first and then the ups, of 16 rows 8 are gates and 8 the ups of the same columns
    of the result, so that one thread has both.
    """
    index = tl.arange(0, S.block_n)
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
def store_result(accumulator, pair, pair_mask, result, S: tl.constexpr, ROWS: tl.constexpr):
    """Store the sums [ROWS, block_n], through the activation if there is one.

    result: out_ptr, tile_n, the width, and the parameters of the activation.
    """
    out_ptr, tile_n, width, limit, alpha, beta, situ_beta, situ_linear_beta = result
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
        value = activate(
            gate,
            up,
            limit,
            alpha,
            beta,
            situ_beta,
            situ_linear_beta,
            S.form,
            S.gated,
            S.has_limit,
            S.has_situ_linear_beta,
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
    settings: dict[str, Any]
    """Of :class:`Settings`."""


def routing_arguments(
    pairs: Pairs, num_pairs: int, num_local_experts: int, num_tiles_n: int
) -> RoutingArguments:
    """How to launch a grouped GEMM over ``pairs``, with ``num_tiles_n`` tiles of columns."""
    slots_are_experts = num_pairs > num_local_experts
    if isinstance(pairs, SortedPairs):
        grid: tuple[int, ...] = (pairs.expert_ids.shape[0] * num_tiles_n,)
        settings = {"sorted": True, "has_expert_map": False, "slots_are_experts": True, "pairs": 1}
        return RoutingArguments(grid, (*pairs, None, None, 0), settings)
    grid = (num_tiles_n, num_local_experts if slots_are_experts else num_pairs)
    return RoutingArguments(
        grid,
        (None, None, None, pairs.topk_ids, pairs.expert_map, pairs.global_num_experts),
        {
            "sorted": False,
            "has_expert_map": pairs.expert_map is not None,
            "slots_are_experts": slots_are_experts,
            # Few sizes, so that few kernels are compiled.
            "pairs": 16 if num_pairs <= 16 else MAX_UNSORTED_PAIRS,
        },
    )


class ActivationArguments(NamedTuple):
    """What the programs of a launch are told of the activation."""

    positional: tuple[float, ...]
    """limit, alpha, beta, situ_beta, situ_linear_beta."""
    settings: dict[str, Any]
    """Of :class:`Settings`."""


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
            "form": form,
            "gated": gated,
            "interleaved": interleaved,
            "has_limit": parameters.limit is not None,
            "has_situ_linear_beta": parameters.situ_linear_beta is not None,
        },
    )


def tile_settings(config: TileConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What :class:`Settings` have of a tiling, and of the dtype of the products."""
    return {
        "block_m": config.block_m,
        "block_n": config.block_n,
        "group_m": config.group_m,
        "stages": config.num_stages,
        "input_precision": "ieee" if dtype == torch.float32 else "tf32",
    }
