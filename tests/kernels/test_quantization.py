"""The reference quantization: scales, ranges and how much a round trip loses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_kernels.quantization.fp8 import amax_scale, dequantize, quantize, widen_e4m3

from moe_rules.vocabulary.quant_keys import CHANNEL, TENSOR, TOKEN

GROUPS = [TENSOR, TOKEN, CHANNEL, (1, 8), (4, 8), (3, 5), (128, 128)]


@given(
    batch=st.sampled_from([(), (3,)]),
    rows=st.integers(0, 9),
    columns=st.integers(1, 20),
    group_shape=st.sampled_from(GROUPS),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_round_trip(batch, rows, columns, group_shape, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, rows, columns, generator=generator)
    quantized, scale = quantize(x, group_shape)
    restored = dequantize(quantized, scale, group_shape)
    assert restored.shape == x.shape
    # e4m3 keeps 4 significant bits: half a unit is at most 1/16 of a normal value; below the
    # smallest normal number, 2^-6, the spacing is 2^-9 of the scale.
    largest_scale = float(scale.max()) if scale.numel() else 0.0
    assert bool(((restored - x).abs() <= x.abs() / 16 + largest_scale * 2**-10).all())


@pytest.mark.parametrize("group_shape", GROUPS)
def test_the_largest_value_of_each_group_is_the_largest_of_the_dtype(group_shape):
    x = torch.randn(2, 12, 24)
    quantized, _ = quantize(x, group_shape)
    assert float(quantized.float().abs().max()) == torch.finfo(torch.float8_e4m3fn).max


def test_scales_of_an_uneven_block_cover_only_it():
    x = torch.ones(5, 6)
    x[4, 5] = 448.0
    scale = amax_scale(x, (4, 4))
    assert scale.shape == (2, 2)
    assert float(scale[1, 1]) == 1.0
    assert float(scale[0, 0]) == pytest.approx(1 / 448)


def test_zeros_have_a_usable_scale():
    quantized, scale = quantize(torch.zeros(2, 3), TOKEN)
    assert bool((scale > 0).all())
    assert bool((quantized.float() == 0).all())


def test_values_beyond_a_given_scale_are_clamped():
    quantized, _ = quantize(torch.tensor([[1000.0, -1000.0]]), TENSOR, torch.ones(1))
    assert quantized.float().tolist() == [[448.0, -448.0]]


def test_a_given_scale_of_zero_makes_no_number_none():
    quantized, scale = quantize(torch.tensor([[0.0, 1.0, -1.0]]), TENSOR, torch.zeros(1))
    assert quantized.float().tolist() == [[0.0, 448.0, -448.0]]
    assert scale.tolist() == [0.0]


def test_widening_is_exact_for_every_number():
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    numbers = every.float().isfinite()
    assert torch.equal((widen_e4m3(every) * 2.0**120)[numbers], every.float()[numbers])
