"""The activation between the two expert GEMMs."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl


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
