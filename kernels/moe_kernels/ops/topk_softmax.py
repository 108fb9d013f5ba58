"""The experts of each token and their weights, from the router's logits, in one launch."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.ops.library import register_operator
from moe_kernels.ops.programmatic_launch import (
    is_programmatic,
    launch_attributes,
    wait_for_previous,
)

_NO_EXPERT = tl.constexpr(-(2**63))


@triton.jit
def _in_order(bits):
    """Bits of float32 as int32 that compare as the numbers do; and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _topk_softmax_kernel(
    logits_ptr,
    topk_weights_ptr,
    topk_ids_ptr,
    num_experts,
    stride_m,
    stride_e,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    EXPERTS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    wait_for_previous(PROGRAMMATIC)
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, EXPERTS)
    inside = expert < num_experts
    logits_ptrs = logits_ptr + token * stride_m + expert * stride_e
    logits = tl.load(logits_ptrs, mask=inside, other=-float("inf")).to(tl.float32)
    logits += 0.0  # of zeros there is one
    # One number for logit and expert, of which no two are the same; of equal logits the first
    # expert's is greater. What is no number is the greatest, and makes all weights none.
    logits = tl.where(logits == logits, logits, float("inf"))
    key = _in_order(logits.to(tl.int32, bitcast=True)).to(tl.int64) << 32
    key = tl.where(inside, key + (EXPERTS - expert), _NO_EXPERT)
    slot = tl.arange(0, SLOTS)
    chosen = tl.zeros((SLOTS,), tl.int64)
    rest = key
    for k in tl.static_range(TOP_K):
        greatest = tl.max(rest, 0)
        chosen = tl.where(slot == k, greatest, chosen)
        rest = tl.where(rest == greatest, _NO_EXPERT, rest)
    top = _in_order((chosen >> 32).to(tl.int32)).to(tl.float32, bitcast=True)
    greatest_logit = tl.max(logits, 0)
    weights = tl.where(slot < TOP_K, tl.exp(top - greatest_logit), 0.0)
    weights /= tl.sum(weights if RENORMALIZE else tl.exp(logits - greatest_logit), 0)
    ids = EXPERTS - (chosen & 0xFFFFFFFF)
    pair = token * TOP_K + slot
    tl.store(topk_weights_ptr + pair, weights, mask=slot < TOP_K)
    tl.store(topk_ids_ptr + pair, ids, mask=slot < TOP_K)


def _fake_topk_softmax(
    router_logits: torch.Tensor,
    top_k: int,
    renormalize: bool,
    weights_dtype: torch.dtype,
    ids_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (router_logits.shape[0], top_k)
    weights = router_logits.new_empty(shape, dtype=weights_dtype)
    return weights, router_logits.new_empty(shape, dtype=ids_dtype)


@register_operator(_fake_topk_softmax)
def topk_softmax(
    router_logits: torch.Tensor,
    top_k: int,
    renormalize: bool,
    weights_dtype: torch.dtype,
    ids_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``top_k`` likeliest experts of each token, greatest first, and their weights.

    router_logits: [M, E], any floating dtype and strides. Weights are the softmax over all experts,
    or over the chosen ones (``renormalize``), in float32 as computed. Of equal logits the first
    expert's comes first. A token with a logit that is no number, or infinity, gets weights that are
    no numbers. Returns topk_weights and topk_ids, [M, top_k]. Raises ValueError for a top_k that is
    none. :func:`moe_kernels.routing.route` is the same in torch.
    """
    results = _fake_topk_softmax(router_logits, top_k, renormalize, weights_dtype, ids_dtype)
    num_tokens, num_experts = router_logits.shape
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be 1 to {num_experts}, the number of experts, got {top_k}")
    if num_tokens > 0:
        sizes = num_tokens, num_experts, *router_logits.stride()
        _launcher(*sizes, top_k, renormalize, router_logits.device)(router_logits, *results)
    return results


@kept
def _launcher(
    num_tokens: int,
    num_experts: int,
    stride_m: int,
    stride_e: int,
    top_k: int,
    renormalize: bool,
    device: torch.device,
) -> Launcher:
    experts = triton.next_power_of_2(num_experts)
    constants = {
        "TOP_K": top_k,
        "RENORMALIZE": renormalize,
        "PROGRAMMATIC": is_programmatic(device),
        "EXPERTS": experts,
        "SLOTS": triton.next_power_of_2(top_k),
    }
    return Launcher(
        _topk_softmax_kernel,
        (num_tokens,),
        (num_experts, stride_m, stride_e),
        constants,
        num_warps=1 if experts <= 256 else 4,  # one has the maximum without a barrier
        **launch_attributes(device),
    )
