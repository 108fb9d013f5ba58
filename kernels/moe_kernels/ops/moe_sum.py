"""The weighted sum over each token's experts."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.ops.programmatic_launch import (
    is_programmatic,
    launch_attributes,
    wait_for_previous,
)
from moe_kernels.ops.routing import local_expert
from moe_kernels.routing import Routing

_MOST_PROGRAMS = 8192
"""To start more takes longer than what they do: each sums several blocks of columns."""


@triton.jit
def _moe_sum_kernel(
    x_ptr,
    out_ptr,
    topk_weights_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    num_experts,
    width,
    top_k,
    TOP_K: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    HAS_EXPERT_MAP: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, TOP_K)
    pair = token * top_k + slot
    # The routing is older than the GEMMs before this kernel.
    local = local_expert(
        topk_ids_ptr, pair, slot < top_k, expert_map_ptr, num_experts, HAS_EXPERT_MAP
    )
    if HAS_WEIGHTS:
        weight = tl.load(topk_weights_ptr + pair, mask=local >= 0, other=0.0).to(tl.float32)
    wait_for_previous(PROGRAMMATIC)
    for block in range(BLOCKS):
        column = (tl.program_id(1) * BLOCKS + block) * BLOCK + tl.arange(0, BLOCK)
        inside = column < width
        mask = (local >= 0)[:, None] & inside[None, :]
        # All rows at once: as many loads in flight as there are experts per token.
        value = tl.load(x_ptr + pair[:, None] * width + column[None, :], mask=mask, other=0.0)
        value = value.to(tl.float32)
        if HAS_WEIGHTS:
            value *= weight[:, None]
        total = tl.sum(value, 0).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + token * width + column, total, mask=inside)


def moe_sum(x: torch.Tensor, topk_weights: torch.Tensor | None, routing: Routing) -> torch.Tensor:
    """Sum each token's rows of ``x``, weighted unless ``topk_weights`` is None, in float32.

    x: [M * topk, H], contiguous. topk_weights and topk_ids: [M, topk], contiguous. Rows of pairs
    without a local expert are not read. Returns [M, H] in the dtype of ``x``. Weights and ids must
    not be the output of the launch right before this one.
    """
    topk_ids, global_num_experts, expert_map = routing
    num_tokens, top_k = topk_ids.shape
    width = x.shape[1]
    out = x.new_empty((num_tokens, width))
    has = topk_weights is not None, expert_map is not None
    launcher = sum_launcher(num_tokens, top_k, width, global_num_experts, *has, x.device)
    launcher(x, out, topk_weights, topk_ids, expert_map)
    return out


@kept
def sum_launcher(
    num_tokens: int,
    top_k: int,
    width: int,
    num_experts: int,
    has_weights: bool,
    has_expert_map: bool,
    device: torch.device,
) -> Launcher:
    """What launches :func:`moe_sum` with x, the result, topk_weights, topk_ids and expert_map."""
    block = min(triton.next_power_of_2(width), 512)
    blocks = triton.cdiv(width, block)
    per_program = max(1, min(blocks, num_tokens * blocks // _MOST_PROGRAMS))
    constants = {
        "TOP_K": triton.next_power_of_2(top_k),
        "HAS_WEIGHTS": has_weights,
        "HAS_EXPERT_MAP": has_expert_map,
        "PROGRAMMATIC": is_programmatic(device),
        "BLOCK": block,
        "BLOCKS": per_program,
    }
    return Launcher(
        _moe_sum_kernel,
        (num_tokens, triton.cdiv(blocks, per_program)),
        (num_experts, width, top_k),
        constants,
        num_warps=2,  # with as many columns as one load of each thread has
        **launch_attributes(device),
    )
