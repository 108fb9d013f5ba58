"""The weighted sum over each token's experts."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

from moe_kernels.ops.routing import local_expert


@triton.jit
def _moe_sum_kernel(
    x_ptr,
    out_ptr,
    topk_weights_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    num_experts,
    width,
    TOP_K: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    HAS_EXPERT_MAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for k in range(TOP_K):
        pair = token * TOP_K + k
        local = local_expert(topk_ids_ptr, pair, True, expert_map_ptr, num_experts, HAS_EXPERT_MAP)
        mask = column < tl.where(local >= 0, width, 0)
        value = tl.load(x_ptr + pair * width + column, mask=mask, other=0.0).to(tl.float32)
        if HAS_WEIGHTS:
            value *= tl.load(topk_weights_ptr + pair).to(tl.float32)
        total += tl.where(mask, value, 0.0)
    tl.store(out_ptr + token * width + column, total.to(out_ptr.dtype.element_ty), mask=inside)


def moe_sum(
    x: torch.Tensor,
    topk_weights: torch.Tensor | None,
    topk_ids: torch.Tensor,
    global_num_experts: int,
    expert_map: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum each token's rows of ``x``, weighted unless ``topk_weights`` is None, in float32.

    x: [M * topk, H], contiguous. topk_weights and topk_ids: [M, topk], contiguous. Rows of pairs
    without a local expert are not read. Returns [M, H] in the dtype of ``x``.
    """
    num_tokens, top_k = topk_ids.shape
    width = x.shape[1]
    out = x.new_empty(num_tokens, width)
    block = min(triton.next_power_of_2(width), 1024)
    _moe_sum_kernel[(num_tokens, triton.cdiv(width, block))](
        x,
        out,
        topk_weights,
        topk_ids,
        expert_map,
        global_num_experts,
        width,
        TOP_K=top_k,
        HAS_WEIGHTS=topk_weights is not None,
        HAS_EXPERT_MAP=expert_map is not None,
        BLOCK=block,
    )
    return out
