"""The activation between the two expert GEMMs."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

from moe_kernels.activation import ActivationParameters, activation_form
from moe_kernels.ops.routing import local_expert


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def activate(
    gate,
    up,
    limit,
    alpha,
    beta,
    situ_beta,
    situ_linear_beta,
    FORM: tl.constexpr,
    GATED: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
    HAS_SITU_LINEAR_BETA: tl.constexpr,
):
    """One of :func:`moe_kernels.activation.activation_form`'s forms on float32 tiles."""
    if FORM == "swiglustep":
        gate = gate * tl.sigmoid(gate)
    if HAS_LIMIT:
        gate = tl.minimum(gate, limit)
        if GATED:
            up = tl.maximum(tl.minimum(up, limit), -limit)
    if FORM == "swiglu":
        gate = gate * tl.sigmoid(alpha * gate)
        if GATED:
            up = up + beta
    elif FORM == "situ":
        gate = situ_beta * _tanh(gate / situ_beta) * tl.sigmoid(gate)
        if HAS_SITU_LINEAR_BETA:
            up = situ_linear_beta * _tanh(up / situ_linear_beta)
    elif FORM == "gelu":
        gate = 0.5 * gate * (1.0 + tl.math.erf(gate * 0.7071067811865476))
    elif FORM == "gelu_tanh":
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = 0.5 * gate * (1.0 + _tanh(inner))
    elif FORM == "relu2":
        gate = tl.maximum(gate, 0.0)
        gate = gate * gate
    if GATED:
        gate = gate * up
    return gate


@triton.jit
def _activation_kernel(
    x_ptr,
    out_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    num_experts,
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
    HAS_EXPERT_MAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    local = local_expert(topk_ids_ptr, pair, True, expert_map_ptr, num_experts, HAS_EXPERT_MAP)
    mask = column < tl.where(local >= 0, width, 0)
    row_ptr = x_ptr + pair * width * (2 if GATED else 1)
    if INTERLEAVED:
        gate = tl.load(row_ptr + 2 * column, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(row_ptr + 2 * column + 1, mask=mask, other=0.0).to(tl.float32)
    else:
        gate = tl.load(row_ptr + column, mask=mask, other=0.0).to(tl.float32)
        up = gate
        if GATED:
            up = tl.load(row_ptr + width + column, mask=mask, other=0.0).to(tl.float32)
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
    # Pairs without a local expert become zeros, so that a per-tensor maximum can be taken.
    value = tl.where(mask, value, 0.0).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + pair * width + column, value, mask=inside)


def activation(
    x: torch.Tensor,
    activation: str,
    parameters: ActivationParameters,
    topk_ids: torch.Tensor,
    global_num_experts: int,
    expert_map: torch.Tensor | None = None,
) -> torch.Tensor:
    """Apply ``activation`` to the rows of ``x``, computed in float32.

    x: [M * topk, 2I] ([M * topk, I] for ``*_no_mul``), contiguous, a row per pair of
    ``topk_ids`` ([M, topk], contiguous). Rows of pairs without a local expert are not read.
    Returns [M * topk, I] in the dtype of ``x``, zero in those rows.
    """
    form, gated, interleaved = activation_form(activation)
    num_pairs, width = x.shape
    width = width // 2 if gated else width
    out = x.new_empty(num_pairs, width)
    block = min(triton.next_power_of_2(width), 1024)
    _activation_kernel[(num_pairs, triton.cdiv(width, block))](
        x,
        out,
        topk_ids,
        expert_map,
        global_num_experts,
        width,
        parameters.limit or 0.0,
        parameters.alpha,
        parameters.beta,
        parameters.situ_beta,
        parameters.situ_linear_beta or 0.0,
        FORM=form,
        GATED=gated,
        INTERLEAVED=interleaved,
        HAS_LIMIT=parameters.limit is not None,
        HAS_SITU_LINEAR_BETA=parameters.situ_linear_beta is not None,
        HAS_EXPERT_MAP=expert_map is not None,
        BLOCK=block,
    )
    return out
