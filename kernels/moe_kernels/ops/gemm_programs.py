"""What the grouped GEMMs share: which tile a program computes, and what a launch passes for it."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from moe_kernels.activation import ActivationParameters, activation_form
from moe_kernels.ops.moe_align_block_size import SortedPairs
from moe_kernels.tuning import MAX_UNSORTED_PAIRS


@triton.jit
def tile_of_program(
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
