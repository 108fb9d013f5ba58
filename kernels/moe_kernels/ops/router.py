"""What a router does: logits of tokens, the experts that they are greatest of, and their weights.

Of few tokens logits are multiplied here, in parts of the columns that many programs share, which
are added up where experts are chosen; of more tokens torch multiplies. The choice is one launch.
"""

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

FEW_TOKENS = 64
"""Up to so many tokens logits are multiplied here."""
_COLUMNS = 256
"""Of a part of the columns: short enough that all of it is loaded at once."""
_NO_EXPERT = tl.constexpr(-(2**31))
"""Less than any logit, as those are put in order."""


@triton.jit(do_not_specialize=["num_tokens"])
def _part_of_logits_kernel(
    x_ptr,
    weight_ptr,
    parts_ptr,
    num_tokens,
    num_experts,
    width,
    stride_xm,
    stride_we,
    PROGRAMMATIC: tl.constexpr,
    TOKENS: tl.constexpr,
    EXPERTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    expert = tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS)
    inside = (expert < num_experts)[:, None] & (column < width)[None, :]
    weights = weight_ptr + expert[:, None] * stride_we + column[None, :]
    weight = tl.load(weights, mask=inside, other=0.0)
    wait_for_previous(PROGRAMMATIC)
    token = tl.program_id(2) * TOKENS + tl.arange(0, TOKENS)
    inside = (token < num_tokens)[:, None] & (column < width)[None, :]
    x = tl.load(x_ptr + token[:, None] * stride_xm + column[None, :], mask=inside, other=0.0)
    part = tl.dot(x, tl.trans(weight))
    row = tl.program_id(1) * num_tokens + token
    inside = (token < num_tokens)[:, None] & (expert < num_experts)[None, :]
    tl.store(parts_ptr + row[:, None] * num_experts + expert[None, :], part, mask=inside)


@triton.jit
def _in_order(bits):
    """Bits of float32 as int32 that compare as the numbers do; and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit(do_not_specialize=["num_tokens"])
def _choose_kernel(
    logits_ptr,
    parts_ptr,
    bias_ptr,
    topk_weights_ptr,
    topk_ids_ptr,
    num_tokens,
    num_experts,
    stride_m,
    stride_e,
    PARTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    EXPERTS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, EXPERTS)
    inside = expert < num_experts
    logits_ptrs = logits_ptr + token * stride_m + expert * stride_e
    wait_for_previous(PROGRAMMATIC)
    if PARTS > 0:
        logits = tl.zeros((EXPERTS,), tl.float32)
        for part in tl.static_range(PARTS):
            row = part * num_tokens + token
            logits += tl.load(parts_ptr + row * num_experts + expert, mask=inside, other=0.0)
        if HAS_BIAS:
            logits += tl.load(bias_ptr + expert, mask=inside, other=0.0).to(tl.float32)
        rounded = logits.to(logits_ptr.dtype.element_ty)
        tl.store(logits_ptrs, rounded, mask=inside)
        logits = tl.where(inside, rounded.to(tl.float32), -float("inf"))
    else:
        logits = tl.load(logits_ptrs, mask=inside, other=-float("inf")).to(tl.float32)
    logits += 0.0  # of zeros there is one
    # What is no number is the greatest, and makes all weights none.
    logits = tl.where(logits == logits, logits, float("inf"))
    rest = tl.where(inside, _in_order(logits.to(tl.int32, bitcast=True)), _NO_EXPERT)
    slot = tl.arange(0, SLOTS)
    top = tl.zeros((SLOTS,), tl.int32)
    ids = tl.zeros((SLOTS,), tl.int32)
    for k in tl.static_range(TOP_K):
        # Of integers a warp has these at once.
        greatest = tl.max(rest, 0)
        first = tl.min(tl.where(rest == greatest, expert, EXPERTS), 0)
        top = tl.where(slot == k, greatest, top)
        ids = tl.where(slot == k, first, ids)
        rest = tl.where(expert == first, _NO_EXPERT, rest)
    top_logits = _in_order(top).to(tl.float32, bitcast=True)
    greatest_logit = tl.max(logits, 0)
    weights = tl.where(slot < TOP_K, tl.exp(top_logits - greatest_logit), 0.0)
    weights /= tl.sum(weights if RENORMALIZE else tl.exp(logits - greatest_logit), 0)
    pair = token * TOP_K + slot
    tl.store(topk_weights_ptr + pair, weights, mask=slot < TOP_K)
    tl.store(topk_ids_ptr + pair, ids, mask=slot < TOP_K)


def choose_experts(
    logits: torch.Tensor,
    top_k: int,
    renormalize: bool,
    weights_dtype: torch.dtype,
    ids_dtype: torch.dtype,
    parts: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``top_k`` likeliest experts of each token, greatest first, and their weights.

    logits: [M, E], any floating dtype and strides; where there are ``parts`` [P, M, E] float32,
    written: the sum of them and the ``bias`` [E], contiguous. Weights are their softmax over all
    experts, or over the chosen ones (``renormalize``), in float32 as computed. Of equal logits the
    first expert's comes first. A token with a logit that is no number, or infinity, gets weights
    that are no numbers. Returns topk_weights and topk_ids, [M, top_k]. Raises ValueError for a
    top_k that is none. :func:`moe_kernels.routing.route` is the same in torch.
    """
    num_tokens, num_experts = logits.shape
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be 1 to {num_experts}, the number of experts, got {top_k}")
    topk_weights = logits.new_empty((num_tokens, top_k), dtype=weights_dtype)
    topk_ids = logits.new_empty((num_tokens, top_k), dtype=ids_dtype)
    if num_tokens > 0:
        sizes = num_tokens, num_experts, *logits.stride()
        num_parts = 0 if parts is None else len(parts)
        how = num_parts, bias is not None, top_k, renormalize
        _choosing(*sizes, *how, logits.device)(logits, parts, bias, topk_weights, topk_ids)
    return topk_weights, topk_ids


def _fake_route_tokens(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    top_k: int,
    renormalize: bool,
    weights_dtype: torch.dtype,
    ids_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = x.new_empty((x.shape[0], weight.shape[0]))
    topk_weights = x.new_empty((x.shape[0], top_k), dtype=weights_dtype)
    return logits, topk_weights, x.new_empty((x.shape[0], top_k), dtype=ids_dtype)


@register_operator(_fake_route_tokens)
def route_tokens(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    top_k: int,
    renormalize: bool,
    weights_dtype: torch.dtype,
    ids_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits of tokens [M, E], and what :func:`choose_experts` makes of them.

    x: [M, H], weight: [E, H], bias: [E], all of one floating dtype, to which logits are rounded.
    """
    num_tokens, width = x.shape
    num_experts = weight.shape[0]
    how = top_k, renormalize, weights_dtype, ids_dtype
    few = 0 < num_tokens <= FEW_TOKENS and x.dtype.itemsize == 2
    rows = x.stride(1) == weight.stride(1) == 1 and (bias is None or bias.is_contiguous())
    if not (few and rows):
        logits = torch.nn.functional.linear(x, weight, bias)
        return logits, *choose_experts(logits, *how)
    logits = x.new_empty((num_tokens, num_experts))
    num_parts = triton.cdiv(width, _COLUMNS)
    parts = x.new_empty((num_parts, num_tokens, num_experts), dtype=torch.float32)
    strides = x.stride(0), weight.stride(0)
    _multiplying(num_tokens, num_experts, width, *strides, x.device)(x, weight, parts)
    return logits, *choose_experts(logits, *how, parts, bias)


@kept
def _multiplying(
    num_tokens: int,
    num_experts: int,
    width: int,
    stride_xm: int,
    stride_we: int,
    device: torch.device,
) -> Launcher:
    tokens = experts = 16  # small tiles, that more of them load at once
    grid = (
        triton.cdiv(num_experts, experts),
        triton.cdiv(width, _COLUMNS),
        triton.cdiv(num_tokens, tokens),
    )
    constants = {
        "PROGRAMMATIC": is_programmatic(device),
        "TOKENS": tokens,
        "EXPERTS": experts,
        "COLUMNS": _COLUMNS,
    }
    return Launcher(
        _part_of_logits_kernel,
        grid,
        (num_tokens, num_experts, width, stride_xm, stride_we),
        constants,
        num_warps=4,
        **launch_attributes(device),
    )


@kept
def _choosing(
    num_tokens: int,
    num_experts: int,
    stride_m: int,
    stride_e: int,
    parts: int,
    has_bias: bool,
    top_k: int,
    renormalize: bool,
    device: torch.device,
) -> Launcher:
    experts = triton.next_power_of_2(num_experts)
    constants = {
        "PARTS": parts,
        "HAS_BIAS": has_bias,
        "TOP_K": top_k,
        "RENORMALIZE": renormalize,
        "PROGRAMMATIC": is_programmatic(device),
        "EXPERTS": experts,
        "SLOTS": triton.next_power_of_2(top_k),
    }
    return Launcher(
        _choose_kernel,
        (num_tokens,),
        (num_tokens, num_experts, stride_m, stride_e),
        constants,
        num_warps=1 if experts <= 256 else 4,  # one has the maximum without a barrier
        **launch_attributes(device),
    )
