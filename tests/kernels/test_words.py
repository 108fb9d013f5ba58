"""Weights as the Triton kernels unpack them: every code stays, and its bits have a place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moe_kernels.layouts.unpacked_in_triton import in_units, unpacked_in_triton
from moe_kernels.layouts.weights import LayerWeights
from moe_kernels.quantization.packing import pack_nibbles
from moe_kernels.quantization.words import WORD_FORMATS, from_words, to_words, word_columns

from moe_rules.vocabulary.quant_keys import NAMED_KEYS


@given(
    fmt=st.sampled_from(WORD_FORMATS),
    experts=st.integers(1, 3),
    rows=st.integers(1, 5),
    half=st.integers(1, 100),
    seed=st.integers(0, 2**31),
)
def test_words_hold_every_code(fmt, experts, rows, half, seed):
    generator = torch.Generator().manual_seed(seed)
    largest = 256 if fmt == "uint8" else 16
    codes = torch.randint(0, largest, (experts, rows, 2 * half), generator=generator)
    codes = codes.to(torch.uint8)
    words = to_words(codes if fmt == "uint8" else pack_nibbles(codes), fmt)
    assert words.shape == (experts, rows, word_columns(2 * half, fmt))
    assert torch.equal(from_words(words, fmt, 2 * half), codes)
    # What fills the last block up is zero, in every format the code of the number zero or a value
    # that meets no activation.
    assert not bool(from_words(words, fmt, 2 * words.shape[2])[..., 2 * half :].any())


def _word(fmt, codes):
    """The word of four codes in columns 0, 16, 32 and 48."""
    row = torch.zeros(1, 1, 64, dtype=torch.uint8)
    row[..., ::16] = torch.tensor(codes, dtype=torch.uint8)
    low, high = to_words(pack_nibbles(row), fmt)[0, 0, :2].tolist()
    return low | high << 8


def test_runs_of_nibbles_are_a_shift_apart():
    assert _word("int4", [1, 2, 3, 4]) == 0x4321


def test_words_of_bytes_have_two_runs():
    row = torch.arange(128, dtype=torch.uint8).view(1, 1, 128)
    words = to_words(row, "uint8")[0, 0].view(4, 16, 2).tolist()
    assert [block[3] for block in words] == [[3, 19], [35, 51], [67, 83], [99, 115]]


@pytest.mark.parametrize("run", range(4))
@pytest.mark.parametrize("code", range(16))
def test_e2m1_comes_to_where_bfloat16_has_its_bits(run, code):
    codes = [15, 15, 15, 15]
    codes[run] = code
    word = _word("mxfp4", codes)
    bits = (word << 3 * run if run < 3 else (word >> 7 & 0xD8) * 0x821) & 0x81C0
    number = torch.tensor([bits - (bits >> 15 << 16)], dtype=torch.int16).view(torch.bfloat16)
    magnitudes = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    expected = magnitudes[code & 7] * (-1 if code & 8 else 1)
    assert number.double().item() * 2.0**126 == expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_a_unit_holds_neighbouring_groups_of_a_row(dtype):
    groups = torch.arange(2 * 3 * 5).view(2, 3, 5).to(torch.float32).to(dtype)
    units = in_units(groups)
    per_unit = 4 // groups.element_size()
    assert units.shape == (2, -(-5 // per_unit), 3, per_unit)
    assert units.is_contiguous()
    for expert, row, group in ((0, 0, 0), (1, 2, 4), (1, 0, 3)):
        unit = units[expert, group // per_unit, row, group % per_unit]
        assert unit.float() == groups[expert, row, group].float()


def test_scales_that_leave_bfloat16_are_refused():
    values, scale = torch.zeros(1, 2, 32, dtype=torch.uint8), torch.full((1, 2, 2), 127)
    scale = scale.to(torch.uint8)
    large = torch.full_like(scale, 200)
    weights = LayerWeights(values, values, scale, large, weight_key=NAMED_KEYS["kMxfp4Static"])
    with pytest.raises(ValueError, match=r"MXFP4 scale is 2\^73; expected at most 2\^65"):
        unpacked_in_triton(weights)
