"""Small number formats, bit for bit against implementations that are not ours.

ml_dtypes rounds elements, torchao quantizes MX and NVFP4 tensors.
"""

import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_kernels.quantization import minifloat, packing
from moe_kernels.quantization.integers import quantize_integer
from moe_kernels.quantization.microscaling import decode_e8m0
from moe_kernels.quantization.minifloat import MINIFLOATS
from moe_kernels.quantization.schemes import (
    dequantize_weight,
    fake_quantize,
    quantization_format,
    quantize_weight,
)

from moe_rules.vocabulary.quant_keys import CHANNEL, NAMED_KEYS, TENSOR, TOKEN

MX = {
    "mxfp4": ("kMxfp4Static", "kMxfp4Dynamic", "even"),
    "mxfp6_e3m2": ("kMxfp6E3M2Static", "kMxfp6E3M2Dynamic", "even"),
    "mxfp6_e2m3": ("kMxfp6E2M3Static", "kMxfp6E2M3Dynamic", "even"),
    "mxfp8": ("kMxfp8Static", "kMxfp8Dynamic", "rceil"),
}


def wide_random(*shape, seed=0):
    """Normal values over many magnitudes, some zero, from one row to the next."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    x *= torch.exp2(torch.randint(-12, 12, (*shape[:-1], 1), generator=generator).float())
    return torch.where(torch.rand(*shape, generator=generator) < 0.05, 0.0, x)


@pytest.mark.parametrize("name", MINIFLOATS)
def test_elements_match_ml_dtypes(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    element = MINIFLOATS[name]
    dtype = {
        "e2m1": ml_dtypes.float4_e2m1fn,
        "e2m3": ml_dtypes.float6_e2m3fn,
        "e3m2": ml_dtypes.float6_e3m2fn,
    }[name]
    # Every number, every middle between two, and both sides of it.
    numbers = element.values().double()
    middles = (numbers[1:] + numbers[:-1]) / 2
    x = torch.cat([numbers, middles, middles * (1 + 1e-6), middles * (1 - 1e-6), torch.rand(500)])
    x = torch.cat([x, -x]).float()
    expected = x.numpy().astype(dtype)
    codes = minifloat.encode(x, element)
    assert codes.tolist() == expected.view("uint8").tolist()
    assert minifloat.decode(codes, element).tolist() == expected.astype("float32").tolist()


@pytest.mark.parametrize("name", MINIFLOATS)
def test_elements_saturate(name):
    element = MINIFLOATS[name]
    limit = {"e2m1": 6.0, "e2m3": 7.5, "e3m2": 28.0}[name]
    rounded = minifloat.round_to(torch.tensor([1e9, -1e9, torch.inf]), element)
    assert rounded.tolist() == [limit, -limit, limit]


def test_e8m0_matches_torch():
    bits = torch.arange(256, dtype=torch.uint8)
    expected = bits.view(torch.float8_e8m0fnu).float()
    torch.testing.assert_close(decode_e8m0(bits), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", MX)
def test_mx_tensors_match_torchao(name, seed):
    pytest.importorskip("torchao")
    warnings.simplefilter("ignore")
    from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_mx

    weight, activation, mode = MX[name]
    if name.startswith("mxfp6"):
        dtype = "fp6_" + name.removeprefix("mxfp6_")
    else:
        dtype = torch.float4_e2m1fn_x2 if name == "mxfp4" else torch.float8_e4m3fn
    x = wide_random(8, 128, seed=seed)
    scale, values = to_mx(x, dtype, 32, ScaleCalculationMode(mode))
    ours = quantize_weight(x, NAMED_KEYS[weight])
    assert torch.equal(ours.scale, scale.view(torch.uint8))
    if not name.startswith("mxfp6"):  # torchao has its own order of bits for these
        assert torch.equal(ours.values.view(torch.uint8), values.view(torch.uint8))
    else:
        codes = packing.unpack_sextets(ours.values)
        assert torch.equal(codes, values.view(torch.uint8))
    dequantized = dequantize_weight(ours, NAMED_KEYS[weight])
    grid = fake_quantize(x, quantization_format(NAMED_KEYS[activation]), (1, 32))
    assert torch.equal(dequantized, grid)


@pytest.mark.parametrize("seed", range(5))
def test_nvfp4_matches_torchao(seed):
    pytest.importorskip("torchao")
    warnings.simplefilter("ignore")
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

    x = wide_random(8, 128, seed=seed)
    scale_2 = per_tensor_amax_to_scale(x.abs().amax())
    scale, values = nvfp4_quantize(x, 16, scale_2)
    ours = quantize_weight(x, NAMED_KEYS["kNvfp4Static"])
    assert float(ours.scale_2) == float(scale_2)
    assert torch.equal(ours.scale.view(torch.uint8), scale.view(torch.uint8))
    assert torch.equal(ours.values, values.view(torch.uint8))
    grid = fake_quantize(x, "nvfp4", (1, 16), scale_2=ours.scale_2)
    torch.testing.assert_close(dequantize_weight(ours, NAMED_KEYS["kNvfp4Static"]), grid)


def test_int8_per_token_matches_torch():
    # PyTorch's own affine quantization, given our scales.
    x = wide_random(6, 40)
    values, scale, _ = quantize_integer(x, 8, TOKEN)
    zeros = torch.zeros(6, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(x, scale[:, 0], zeros, 0, -128, 127)
    assert torch.equal(values * scale, expected)


@given(
    bits=st.sampled_from([4, 8]),
    group_shape=st.sampled_from([TENSOR, TOKEN, CHANNEL, (1, 4), (1, 16)]),
    symmetric=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_integers_are_within_half_a_step(bits, group_shape, symmetric, seed):
    x = wide_random(3, 5, 16, seed=seed) + 0.5
    values, scale, zero_point = quantize_integer(x, bits, group_shape, symmetric=symmetric)
    assert int(values.min()) >= (-(2 ** (bits - 1)) + 1 if symmetric else 0)
    assert int(values.max()) <= (2 ** (bits - 1) - 1 if symmetric else 2**bits - 1)
    stored = values.double()
    if group_shape == TENSOR:
        scale = scale[:, None, None]
        zero_point = None if zero_point is None else zero_point[:, None, None]
    groups = stored.unflatten(-1, (-1, 16 // scale.shape[-1]))
    if zero_point is not None:
        groups = groups - zero_point[..., None].double()
    restored = (groups * scale[..., None].double()).flatten(-2)
    step = scale.double().repeat_interleave(16 // scale.shape[-1], -1)
    # The zero point is rounded too: values at either end may be clipped by half a step more.
    assert bool(((restored - x).abs() <= step * (0.501 if symmetric else 1.001)).all())


def test_groups_must_divide():
    with pytest.raises(ValueError, match="groups of 32 do not divide 48 columns"):
        quantize_integer(torch.zeros(2, 48), 4, (1, 32))


@pytest.mark.parametrize("shape", [(8,), (3, 16), (2, 3, 24)])
def test_packing_is_undone(shape):
    generator = torch.Generator().manual_seed(0)

    def codes(bits):
        return torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.uint8)

    four, six, eight = codes(4), codes(6), codes(8)
    assert torch.equal(packing.unpack_nibbles(packing.pack_nibbles(four)), four)
    assert torch.equal(packing.unpack_sextets(packing.pack_sextets(six)), six)
    assert torch.equal(packing.unpack_awq(packing.pack_awq(four)), four)
    assert torch.equal(packing.unpack_words(packing.pack_words(four, 4, -1), 4, -1), four)
    assert torch.equal(packing.unpack_words(packing.pack_words(eight, 8, -1), 8, -1), eight)


def test_words_and_bytes_are_those_of_checkpoints():
    values = torch.arange(8, dtype=torch.uint8)
    # GPTQ: the first value in the lowest bits. AWQ: 0, 2, 4, 6, 1, 3, 5, 7 from there.
    assert packing.pack_words(values, 4, 0).item() == 0x76543210
    assert packing.pack_awq(values).item() == 0x75316420
    assert packing.pack_words(values + 8, 4, 0).item() == 0xFEDCBA98 - (1 << 32)
    assert packing.pack_words(torch.tensor([[1], [2], [3], [4]]).byte(), 8, 0).item() == 0x04030201
    # The bytes of a word are nibbles in order.
    words = packing.pack_words(values, 4, 0)
    assert torch.equal(words.view(torch.uint8), packing.pack_nibbles(values))
    assert packing.pack_sextets(torch.tensor([1, 2, 3, 4]).byte()).tolist() == [0x81, 0x30, 0x10]


def test_torchao_packs_nibbles_alike():
    pytest.importorskip("torchao")
    from torchao.prototype.mx_formats.kernels import pack_uint4

    values = torch.randint(0, 16, (4, 32), dtype=torch.uint8)
    assert torch.equal(packing.pack_nibbles(values), pack_uint4(values))


def test_odd_numbers_of_nibbles_are_refused():
    with pytest.raises(ValueError, match="packing two to a byte needs a multiple of 2 values"):
        packing.pack_nibbles(torch.zeros(3, dtype=torch.uint8))


def weight_keys():
    return [name for name, key in NAMED_KEYS.items() if key.scale.static and "E8M0" not in name]


@pytest.mark.parametrize("name", weight_keys())
def test_quantizing_dequantized_weights_changes_nothing(name):
    key = NAMED_KEYS[name]
    w = wide_random(2, 32, 128, seed=3)
    once = quantize_weight(w, key, group_size=64)
    values = dequantize_weight(once, key, torch.float64)
    assert values.shape == w.shape
    # A format of n significant bits is off by 2^-n at most, relative to its group's largest.
    error = float((values - w).norm() / w.norm())
    assert error < {"int4": 0.25, "mxfp4": 0.25, "nvfp4": 0.25, "fp8": 0.04}.get(
        quantization_format(key), 0.1
    )
    twice = dequantize_weight(quantize_weight(values.float(), key, group_size=64), key)
    assert float((twice - values).norm() / values.norm()) < 1e-2


@pytest.mark.parametrize(("columns", "name"), list(itertools.product((40, 72), MX)))
def test_last_groups_may_be_short(columns, name):
    key = NAMED_KEYS[MX[name][0]]
    w = wide_random(4, columns, seed=1)
    whole = torch.nn.functional.pad(w, (0, -columns % 32))
    ours, padded = quantize_weight(w, key), quantize_weight(whole, key)
    assert torch.equal(ours.scale, padded.scale)
    expected = dequantize_weight(padded, key)[:, :columns]
    assert torch.equal(dequantize_weight(ours, key), expected)


def test_keys_without_a_format_are_named():
    with pytest.raises(ValueError, match="no format for quantization kFp8Static128BlockE8M0Sym"):
        quantization_format(NAMED_KEYS["kFp8Static128BlockE8M0Sym"])
