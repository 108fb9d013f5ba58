"""How the grouped GEMMs are launched: what both are given, whatever they multiply."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton

from moe_kernels.activation import ActivationParameters, activation_form
from moe_kernels.ops.moe_align_block_size import SortedPairs
from moe_kernels.ops.programmatic_launch import is_programmatic, launch_attributes
from moe_kernels.routing import Routing
from moe_kernels.tiling.tile_config import MAX_UNSORTED_PAIRS, TileConfig

Pairs = SortedPairs | Routing
"""Unsorted, the routing as it is, topk_ids contiguous."""


class FusedActivation(NamedTuple):
    """An activation that the GEMM's result goes through; see :mod:`moe_kernels.activation`."""

    name: str
    parameters: ActivationParameters


class GemmLaunch(NamedTuple):
    """What the launches of both GEMMs have."""

    grid: tuple[int, ...]
    out: torch.Tensor
    """[num_pairs, width], to be written."""
    width: int
    routing: tuple[torch.Tensor | int | None, ...]
    """sorted_token_ids, expert_ids, num_tokens_post_padded, topk_ids, expert_map, num_experts."""
    activation: tuple[float, ...]
    """limit, alpha, beta, situ_beta, situ_linear_beta."""
    settings: dict[str, Any]
    """Of :class:`moe_kernels.ops.gemm_programs.Settings`, but for what depends on the products."""
    options: dict[str, Any]
    """Keyword arguments of the launch."""


def gemm_launch(
    pairs: Pairs,
    num_pairs: int,
    weight: torch.Tensor,
    config: TileConfig,
    activation: FusedActivation | None,
    out: torch.Tensor | None,
    out_dtype: torch.dtype,
    has_bias: bool,
) -> GemmLaunch:
    """How to launch a grouped GEMM over ``pairs`` with ``weight`` [E, N, columns].

    Its result goes through ``activation``, or through none, and to ``out``, or a new tensor.
    """
    num_local_experts, n, _ = weight.shape
    form, gated, interleaved = "", False, False
    parameters = ActivationParameters()
    if activation is not None:
        form, gated, interleaved = activation_form(activation.name)
        parameters = activation.parameters
    width = n // 2 if gated else n
    if out is None:
        out = torch.empty(num_pairs, width, dtype=out_dtype, device=weight.device)
    grid, routing, of_routing = _routing(
        pairs, num_pairs, num_local_experts, triton.cdiv(n, config.block_n)
    )
    return GemmLaunch(
        grid,
        out,
        width,
        routing,
        (
            parameters.limit or 0.0,
            parameters.alpha,
            parameters.beta,
            parameters.situ_beta,
            parameters.situ_linear_beta or 0.0,
        ),
        of_routing
        | {
            "form": form,
            "gated": gated,
            "interleaved": interleaved,
            "has_limit": parameters.limit is not None,
            "has_situ_linear_beta": parameters.situ_linear_beta is not None,
            "programmatic": is_programmatic(weight.device),
            "has_bias": has_bias,
            "runs_of_8": width % 8 == 0,
            "block_m": config.block_m,
            "block_n": config.block_n,
            "group_m": config.group_m,
            "stages": config.num_stages,
        },
        {
            "num_warps": config.num_warps,
            "num_stages": config.num_stages,
            **launch_attributes(weight.device),
        },
    )


def _routing(
    pairs: Pairs, num_pairs: int, num_local_experts: int, num_tiles_n: int
) -> tuple[tuple[int, ...], tuple[torch.Tensor | int | None, ...], dict[str, Any]]:
    """The grid, routing and settings of a launch, as far as they depend on ``pairs``."""
    slots_are_experts = num_pairs > num_local_experts
    if isinstance(pairs, SortedPairs):
        settings = {"sorted": True, "has_expert_map": False, "slots_are_experts": True, "pairs": 1}
        return (pairs.expert_ids.shape[0] * num_tiles_n,), (*pairs, None, None, 0), settings
    return (
        (num_tiles_n, num_local_experts if slots_are_experts else num_pairs),
        (None, None, None, pairs.topk_ids, pairs.expert_map, pairs.global_num_experts),
        {
            "sorted": False,
            "has_expert_map": pairs.expert_map is not None,
            "slots_are_experts": slots_are_experts,
            # Few sizes, so that few kernels are compiled.
            "pairs": 16 if num_pairs <= 16 else MAX_UNSORTED_PAIRS,
        },
    )
