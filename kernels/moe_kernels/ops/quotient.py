"""Division by scales, rounded as IEEE 754 says, which Triton's ``/`` is not on a GPU.

What lies in the middle of two FP8 numbers, as one bf16 number of 16 does over a scale of 1,
becomes the other one where the quotient is off by one unit in the last place.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from moe_kernels.quantization.fp8 import MIN_SCALE

_MIN_SCALE = tl.constexpr(MIN_SCALE)


@triton.jit
def quotient(x, scale):
    """``x / scale`` in float32, the nearest number to it.

    ``scale`` broadcasts against ``x``: each of x takes three instructions, and no branch, unlike
    ``tl.div_rn``. The remainder of a quotient that is less than 3/2 units in the last place off has
    no rounding, and what it says is missing leaves less than 2^-23 of a unit: the quotient is then
    on its side of the middle of two numbers (P. W. Markstein, IBM Journal of Research and
    Development 34, 1990). That takes the nearest number to the reciprocal, which a step of Newton's
    makes from one that is two units off, as Triton's may be: then three scales of all, but for
    powers of two, have an x each whose quotient is one unit off. On Hopper none has: a test goes
    through all.

    Scales: 2^-85 to 2^125. Quotients: from 2^-18; smaller ones are off by two units at most.
    """
    reciprocal = 1.0 / scale
    reciprocal = tl.fma(tl.fma(-scale, reciprocal, 1.0), reciprocal, reciprocal)
    near = x * reciprocal
    # So that -0.0 stays what it is. The minus of Triton 3.6 would subtract x from 0.
    return tl.fma(tl.fma(near, scale, x * -1.0), -reciprocal, near)


@triton.jit
def bounded_quotient(x, scale, largest):
    """``x / scale``, beyond ``largest`` or its opposite that number but for its last place.

    So infinity becomes the largest number; NaN remains. The scale may be one that was given: see
    :data:`moe_kernels.quantization.fp8.MIN_SCALE`.
    """
    scale = tl.where(tl.abs(scale) < _MIN_SCALE, _MIN_SCALE, scale)
    bound = largest * tl.abs(scale)
    return quotient(tl.clamp(x, -bound, bound, tl.PropagateNan.ALL), scale)
