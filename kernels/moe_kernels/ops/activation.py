"""The activation between the two expert GEMMs."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tanh(x, sigmoid: tl.constexpr):
    return 2.0 * sigmoid(2.0 * x) - 1.0


@triton.jit
def activate(gate, up, parameters, S: tl.constexpr, sigmoid: tl.constexpr = tl.sigmoid):
    """One of :func:`moe_kernels.activation.activation_form`'s forms on float32 tiles.

    parameters: limit, alpha, beta, situ_beta, situ_linear_beta. S: a
    :class:`moe_kernels.ops.gemm_programs.Settings`. sigmoid: a function that computes it.
    """
    limit, alpha, beta, situ_beta, situ_linear_beta = parameters
    if S.form == "swiglustep":
        gate = gate * sigmoid(gate)
    if S.has_limit:
        gate = tl.minimum(gate, limit)
        if S.gated:
            up = tl.maximum(tl.minimum(up, limit), -limit)
    if S.form == "swiglu":
        gate = gate * sigmoid(alpha * gate)
        if S.gated:
            up = up + beta
    elif S.form == "situ":
        gate = situ_beta * _tanh(gate / situ_beta, sigmoid) * sigmoid(gate)
        if S.has_situ_linear_beta:
            up = situ_linear_beta * _tanh(up / situ_linear_beta, sigmoid)
    elif S.form == "gelu":
        gate = 0.5 * gate * (1.0 + tl.math.erf(gate * 0.7071067811865476))
    elif S.form == "gelu_tanh":
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = 0.5 * gate * (1.0 + _tanh(inner, sigmoid))
    elif S.form == "relu2":
        gate = tl.maximum(gate, 0.0)
        gate = gate * gate
    if S.gated:
        gate = gate * up
    return gate
