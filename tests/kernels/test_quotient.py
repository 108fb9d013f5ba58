"""Quotients in kernels are those of IEEE 754: on the GPU if there is one, else interpreted."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton", minversion="3.9" if not torch.cuda.is_available() else None)

import triton.language as tl  # noqa: E402
from moe_kernels.ops.quotient import bounded_quotient, quotient  # noqa: E402
from moe_kernels.quantization.fp8 import MIN_AMAX, MIN_SCALE  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MANTISSAS = st.integers(2**23, 2**24 - 1)
LARGEST = 448.0


@triton.jit
def _quotients(x_ptr, scale_ptr, out_ptr, largest, bounded: tl.constexpr, columns: tl.constexpr):
    row = tl.program_id(0)
    scale = tl.load(scale_ptr + row)
    offsets = row * columns + tl.arange(0, columns)
    x = tl.load(x_ptr + offsets)
    value = bounded_quotient(x, scale, largest) if bounded else quotient(x, scale)
    tl.store(out_ptr + offsets, value)


def quotients(x, scale, bounded=False):
    """``x`` [rows, columns] over ``scale`` [rows] as kernels divide; columns: a power of two."""
    x, scale = x.to(DEVICE), scale.to(DEVICE)
    out = torch.empty_like(x)
    _quotients[(len(x),)](x, scale, out, LARGEST, bounded, x.shape[1])
    return out.cpu()


def bits(x):
    return x.view(torch.int32).tolist()


@given(
    mantissas=st.lists(MANTISSAS, min_size=8, max_size=8),
    scale=MANTISSAS,
    scale_exponent=st.integers(-108, 101),
    exponent=st.integers(-17, 20),
    sign=st.sampled_from([-1, 1]),
)
@example([2**23, 2**24 - 1] * 4, 2**24 - 1, 0, 0, 1)
@settings(max_examples=100, deadline=None)
def test_quotients_are_the_nearest_numbers(mantissas, scale, scale_exponent, exponent, sign):
    exponent = min(scale_exponent + exponent, 104)
    x = torch.tensor([[sign * math.ldexp(mantissa, exponent) for mantissa in mantissas]])
    scales = torch.tensor([math.ldexp(scale, scale_exponent)])
    assert bits(quotients(x, scales)) == bits(x / scales)


@given(scale=MANTISSAS.filter(lambda mantissa: mantissa % 2), power=st.sampled_from([24, 25]))
@settings(max_examples=200, deadline=None)
def test_quotients_next_to_the_middle_of_two_numbers_are_the_nearer_one(scale, power):
    # No x over this scale lies nearer to a middle: half of an odd number of units, ``twice``.
    found = []
    for rest in (-3, -1, 1, 3):
        least = rest * pow(scale, -1, 2**power) % 2**power
        for twice in (least, least + 2**power):
            x = (twice * scale - rest) >> power
            if 2**24 <= twice < 2**25 and 2**23 <= x < 2**24:
                found.append(x)
    if found:
        x = torch.tensor([(found * 8)[:8]]).float()
        scales = torch.tensor([scale]).float()
        assert bits(quotients(x, scales)) == bits(x / scales)


def test_the_sign_of_zeros_remains():
    x = torch.tensor([[0.0, -0.0]])
    for scale in (MIN_AMAX / LARGEST, 3.0):
        assert bits(quotients(x, torch.tensor([scale]))) == bits(x)


@pytest.mark.parametrize("scale", [1.0, 0.3, -0.3])
def test_beyond_the_largest_is_the_largest(scale):
    inf, nan = math.inf, math.nan
    x = torch.tensor([[inf, -inf, nan, 3e38, 449 * scale, -1e9 * scale, 447 * scale, 0.0]])
    expected = (x / scale).clamp(-LARGEST, LARGEST)
    values = quotients(x, torch.tensor([scale]), bounded=True)
    torch.testing.assert_close(values, expected, rtol=2**-23, atol=0, equal_nan=True)


@pytest.mark.parametrize("scale", [0.0, 1e-40, MIN_SCALE])
def test_scales_without_a_reciprocal_are_the_smallest_that_has_one(scale):
    x = torch.tensor([[0.0, 1.0, -1.0, MIN_SCALE]])
    values = quotients(x, torch.tensor([scale]), bounded=True)
    assert values.tolist() == [[0.0, LARGEST, -LARGEST, 1.0]]


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="interpreted, reciprocals are exact at once")
def test_quotients_over_every_scale_are_the_nearest_numbers():
    scales = torch.arange(2**23, 2**24, device=DEVICE).float()
    x = torch.randint(2**23, 2**24, (len(scales), 8), device=DEVICE).float()
    x[:, 0] = 1  # the reciprocal; and what is next to the middle of two numbers, if there is any
    odd = scales.long()[1::2]
    inverse = odd.clone()
    for _ in range(5):
        inverse *= 2 - odd * inverse
    for column, rest in enumerate((-3, -1, 1, 3), 1):
        twice = rest * inverse % 2**24 + 2**24
        x[1::2, column] = ((twice * odd - rest) >> 24).clamp(2**23, 2**24 - 1).float()
    assert torch.equal(quotients(x, scales), (x / scales[:, None]).cpu())
