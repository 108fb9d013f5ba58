"""How the grouped GEMMs are launched: what all are given, whatever they multiply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from moe_kernels.activation import ActivationParameters, activation_form
from moe_kernels.ops.launcher import Launcher
from moe_kernels.ops.moe_align_block_size import SortedPairs
from moe_kernels.ops.programmatic_launch import is_programmatic, launch_attributes
from moe_kernels.routing import Routing
from moe_kernels.tensor_spec import TensorSpec
from moe_kernels.tiling.tile_config import MAX_UNSORTED_PAIRS, TileConfig

Pairs = SortedPairs | Routing
"""Unsorted, the routing as it is, topk_ids contiguous."""


class FusedActivation(NamedTuple):
    """An activation that the GEMM's result goes through; see :mod:`moe_kernels.activation`."""

    name: str
    parameters: ActivationParameters


class GemmCall(NamedTuple):
    """What both GEMMs are told beside tensors; hashable."""

    blocks: int | None
    """Of sorted pairs, as many as there may be; None: pairs are not sorted."""
    has_expert_map: bool
    num_experts: int
    """Global ones, where pairs are not sorted, else 0."""
    num_pairs: int
    top_k: int
    config: TileConfig
    activation: FusedActivation | None
    out_dtype: torch.dtype
    has_bias: bool
    routing_is_older: bool = False
    """Whether the launch right before did not write the routing, unsorted."""
    a_is_sorted: bool = False
    """Whether ``a`` has a row for each of the sorted pairs, padding as well."""
    out_is_sorted: bool = False
    """Whether the result has."""


def gemm_call(
    pairs: Pairs,
    num_pairs: int,
    top_k: int,
    config: TileConfig,
    activation: FusedActivation | None,
    out_dtype: torch.dtype,
    has_bias: bool,
    routing_is_older: bool = False,
    a_is_sorted: bool = False,
    out_is_sorted: bool = False,
) -> GemmCall:
    """The call of a grouped GEMM over ``pairs``, whose result goes through ``activation``.

    ``routing_is_older``: whether the launch right before this one did not write the routing, as it
    must not where there is no activation.
    """
    blocks, has_expert_map, num_experts = None, False, 0
    if isinstance(pairs, SortedPairs):
        blocks = pairs.expert_ids.shape[0]
    else:
        has_expert_map, num_experts = pairs.expert_map is not None, pairs.global_num_experts
    older = blocks is None and (routing_is_older or activation is None)
    routing = blocks, has_expert_map, num_experts
    return GemmCall(
        *routing,
        num_pairs,
        top_k,
        config,
        activation,
        out_dtype,
        has_bias,
        older,
        a_is_sorted,
        out_is_sorted,
    )


def pairs_tensors(pairs: Pairs) -> tuple[torch.Tensor | None, ...]:
    """What a launch has of ``pairs``.

    sorted_token_ids, expert_ids, num_tokens_post_padded, topk_ids, expert_map, tiles_taken,
    blocks_of_expert.
    """
    if isinstance(pairs, SortedPairs):
        return (*pairs[:3], None, None, *pairs[3:])
    return None, None, None, pairs.topk_ids, pairs.expert_map, None, None


GemmTensors = tuple[torch.Tensor | None, ...]
"""What a grouped GEMM may have.

a, weight, result, scale of a; the weight's scale, zero point, second scale and bias; topk_weights;
:func:`pairs_tensors`.
"""


class Gemm(NamedTuple):
    """A grouped GEMM made ready for tensors with certain specs."""

    launcher: Launcher
    takes: Callable[[GemmTensors], GemmTensors]
    """Those of the tensors that its kernel has."""
    shape: tuple[int, int]
    """Of the result."""
    dtype: torch.dtype
    takes_sorted_rows: bool = False
    """Whether there is one for rows that are where sorted pairs are, of ``a`` and the result."""

    def __call__(
        self,
        a: torch.Tensor,
        a_scale: torch.Tensor | None,
        weight: torch.Tensor,
        with_weight: Sequence[torch.Tensor | None],
        pairs: GemmTensors,
        topk_weights: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The result, in ``out`` if that is given.

        with_weight: its scale, zero point, second scale and bias. pairs: :func:`pairs_tensors`.
        """
        if out is None:
            out = a.new_empty(self.shape, dtype=self.dtype)
        tensors = (a, weight, out, a_scale, *with_weight, topk_weights, *pairs)
        self.launcher(*self.takes(tensors))
        return out


class GemmLaunch(NamedTuple):
    """What the launches of both GEMMs have."""

    grid: tuple[int, ...]
    sorted_rows: int
    """How many sorted pairs there may be, padding included."""
    width: int
    """Columns of the result."""
    activation: tuple[float, ...]
    """limit, alpha, beta, situ_beta, situ_linear_beta."""
    settings: dict[str, Any]
    """Of :class:`moe_kernels.ops.gemm_programs.Settings`, but for what depends on the products."""
    options: dict[str, Any]
    """Keyword arguments of the launch."""


def gemm_launch(call: GemmCall, weight: TensorSpec) -> GemmLaunch:
    """How to launch a grouped GEMM with ``weight`` [E, N, columns]."""
    num_local_experts, n, _ = weight.shape
    config = call.config
    form, gated, interleaved = "", False, False
    parameters = ActivationParameters()
    if call.activation is not None:
        form, gated, interleaved = activation_form(call.activation.name)
        parameters = call.activation.parameters
    width = n // 2 if gated else n
    grid, of_routing = _routing(call, num_local_experts, -(-n // config.block_n))
    return GemmLaunch(
        grid,
        (call.blocks or 0) * config.block_m,
        width,
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
            "routing_is_older": call.routing_is_older,
            "has_limit": parameters.limit is not None,
            "has_situ_linear_beta": parameters.situ_linear_beta is not None,
            "programmatic": is_programmatic(weight.device),
            "has_bias": call.has_bias,
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
    call: GemmCall, num_local_experts: int, num_tiles_n: int
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The grid and settings of a launch, as far as they depend on its pairs."""
    if call.blocks is not None:
        settings = {"sorted": True, "has_expert_map": False, "slots_are_experts": True, "pairs": 1}
        return (call.blocks * num_tiles_n,), settings
    slots_are_experts = call.num_pairs > num_local_experts
    return (
        (num_tiles_n, num_local_experts if slots_are_experts else call.num_pairs),
        {
            "sorted": False,
            "has_expert_map": call.has_expert_map,
            "slots_are_experts": slots_are_experts,
            # Few sizes, so that few kernels are compiled.
            "pairs": 16 if call.num_pairs <= 16 else MAX_UNSORTED_PAIRS,
        },
    )
