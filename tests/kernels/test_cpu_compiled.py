"""Products that are compiled for this CPU: against float64, and weights bit for bit."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_kernels.cpu import compiled
from moe_kernels.cpu.compiled import stored
from moe_kernels.quantization.schemes import (
    QuantizedWeight,
    dequantize_weight,
    quantization_format,
    quantize_weight,
)

from moe_rules.vocabulary.quant_keys import NAMED_KEYS

pytestmark = pytest.mark.skipif(not compiled.available(), reason="needs llvmlite")

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
KEYS = (
    *("kFp8StaticTensorSym", "kFp8StaticChannelSym", "kFp8Static128BlockSym"),
    *("kInt8StaticChannelSym", "kInt4Static", "kInt4StaticAsym", "kMxfp4Static"),
)


def product(weights, x, segments, rounded=False):
    """What ``x`` is multiplied to; NaN outside of the segments."""
    out = torch.full((len(x), weights.values.shape[1]), torch.nan)
    (weights.multiply_rounded if rounded else weights.multiply)(x, segments, out)
    return out


def segments_of(counts, experts=4):
    """Segments of so many tokens, each of another expert."""
    stops = torch.tensor(counts).cumsum(0).tolist()
    return list(zip(torch.randperm(experts).tolist(), [0, *stops], stops, strict=False))


def drawn(scheme, *shape, scale_dtype=None):
    """Weights of a dtype or of a key's scheme as they are stored, and as numbers."""
    w = torch.randn(shape)
    if isinstance(scheme, torch.dtype):
        w = w.to(scheme)
        return stored(w), w.float()
    key = NAMED_KEYS[scheme]
    packed = scheme.startswith("kInt4")
    weight = quantize_weight(w, key, 32 if packed else None)
    if scale_dtype is not None:
        weight = weight._replace(scale=weight.scale.to(scale_dtype))
    fmt, groups = quantization_format(key), key.scale.group_shape
    weights = stored(weight.values, fmt, weight.scale, weight.zero_point, groups)
    return weights, dequantize_weight(weight, key)


@given(
    scheme=st.sampled_from([*FLOATS, *KEYS]),
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    n=st.integers(1, 100),
    steps=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_each_token_meets_its_expert(scheme, counts, n, steps, seed):
    torch.manual_seed(seed)
    weights, numbers = drawn(scheme, 4, n, 32 * steps)
    x = torch.randn(sum(counts), 32 * steps)
    segments = segments_of(counts)
    output = product(weights, x, segments)
    for expert, start, stop in segments:
        tokens, w = x[start:stop].double(), numbers[expert].double().t()
        error = (output[start:stop] - tokens @ w).abs()
        assert bool((error <= 1e-6 * (tokens.abs() @ w.abs())).all())


@given(
    scheme=st.sampled_from([*FLOATS, *KEYS]),
    counts=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    n=st.integers(16, 100),
    steps=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_matrix_units_multiply_rounded_weights(scheme, counts, n, steps, seed):
    torch.manual_seed(seed)
    weights, numbers = drawn(scheme, 4, n, 32 * steps)
    if not weights.rounds(torch.bfloat16):
        pytest.skip("this CPU has none")
    x = torch.randn(sum(counts), 32 * steps).bfloat16()
    segments = segments_of(counts)
    output = product(weights, x, segments, rounded=True)
    for expert, start, stop in segments:
        tokens, w = x[start:stop].double(), numbers[expert].double().t()
        exact = 1e-6 if scheme is torch.bfloat16 else 2.0**-8
        error = (output[start:stop] - tokens @ w).abs()
        assert bool((error <= exact * (tokens.abs() @ w.abs())).all())
        alone = product(weights, x[start : start + 1], [(expert, 0, 1)], rounded=True)
        assert torch.equal(alone[0], output[start]), "a sum depends on its token and expert alone"


def test_matrix_units_are_for_large_weights_and_bf16(answer):
    weights = stored(torch.ones(1, 16, 32))
    assert weights.rounds(torch.bfloat16) <= (torch.bfloat16 in answer)
    assert not weights.rounds(torch.float32)
    assert not stored(torch.ones(1, 15, 32)).rounds(torch.bfloat16)
    assert not stored(torch.ones(1, 16, 1 << 16)).rounds(torch.bfloat16)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scheme", [*FLOATS, *KEYS])
def test_converted_weights_are_those_that_torch_converts(scheme, dtype):
    weights, numbers = drawn(scheme, 3, 150, 160)
    out = torch.empty(101, 160, dtype=dtype)
    weights.convert(2, slice(7, 108), out)
    assert torch.equal(out, numbers[2, 7:108].to(dtype))


@pytest.mark.parametrize("scale_dtype", FLOATS)
def test_scales_of_every_dtype(scale_dtype):
    weights, numbers = drawn("kInt4StaticAsym", 2, 40, 96, scale_dtype=scale_dtype)
    out = torch.empty(40, 96)
    weights.convert(1, slice(0, 40), out)
    assert torch.equal(out, numbers[1])


def test_a_sum_does_not_depend_on_the_tokens_beside_it():
    weights, _ = drawn("kFp8Static128BlockSym", 1, 50, 256)
    x = torch.randn(13, 256)
    whole = product(weights, x, [(0, 0, 13)])
    for token in range(13):
        assert torch.equal(product(weights, x[token:][:1], [(0, 0, 1)])[0], whole[token])


@pytest.mark.parametrize("rounded", [False, True])
def test_rows_outside_of_the_segments_are_left_alone(rounded):
    weights, _ = drawn(torch.bfloat16, 2, 16, 32)
    if rounded and not weights.rounds(torch.bfloat16):
        pytest.skip("this CPU has no matrix units")
    x = torch.full((5, 32), torch.nan, dtype=torch.bfloat16 if rounded else torch.float32)
    x[1:3] = 1
    output = product(weights, x, [(1, 1, 3)], rounded)
    assert output.isfinite().all(1).tolist() == [False, True, True, False, False]


def test_every_fp8_number():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    weights = stored(codes.view(1, 8, 32), "fp8", torch.ones(1))
    out = torch.empty(8, 32)
    weights.convert(0, slice(0, 8), out)
    expected = codes.view(8, 32).float()
    numbers = ~expected.isnan()
    assert torch.equal(out[numbers], expected[numbers])
    assert set(out[~numbers].abs().tolist()) == {480.0}


def test_every_mxfp4_number_with_every_scale():
    pairs = torch.arange(256, dtype=torch.uint8)
    values = pairs.repeat(256, 1).view(1, 256, 256)
    scale = torch.arange(256, dtype=torch.uint8)[None, :, None].repeat(1, 1, 16)
    weights = stored(values, "mxfp4", scale)
    out = torch.empty(256, 512)
    weights.convert(0, slice(0, 256), out)
    key = NAMED_KEYS["kMxfp4Static"]
    expected = dequantize_weight(QuantizedWeight(values[0], scale[0]), key)
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7F800001])
def test_no_nan_becomes_a_number_in_bf16(bits):
    scale = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    weights = stored(torch.ones(1, 4, 32, dtype=torch.int8), "int8", scale)
    out = torch.empty(4, 32, dtype=torch.bfloat16)
    weights.convert(0, slice(0, 4), out)
    assert bool(out.isnan().all())


def test_what_no_product_is_compiled_for():
    assert stored(torch.ones(2, 8, 40)) is None
    assert stored(torch.ones(2, 8, 32).double()) is None
    assert stored(torch.ones(2, 32, 64).transpose(1, 2)) is None
    codes = torch.zeros(2, 8, 32, dtype=torch.uint8)
    assert stored(codes, "int4", torch.ones(2, 8, 4)) is None
    assert stored(codes, "nvfp4", torch.ones(2, 8, 4)) is None
    assert stored(codes, "int4", torch.ones(2, 8, 2).double()) is None
    assert stored(codes, "int4", torch.ones(2, 8, 2), torch.ones(2, 8, 2)) is None
    assert stored(codes, "int4", torch.ones(2, 8, 2)) is not None
    fp8 = codes.view(torch.float8_e4m3fn)
    assert stored(fp8, "fp8", torch.ones(2, 1, 2), groups=(4, 32)) is None
    assert stored(fp8, "fp8", torch.ones(2, 2, 1), groups=(4, 32)) is not None


def test_tokens_of_another_size():
    with pytest.raises(ValueError, match="tokens have 64 columns, their weights 32"):
        product(stored(torch.ones(2, 8, 32)), torch.ones(3, 64), [(0, 0, 3)])


class Unloadable:
    """Finds, for what llvmlite imports, that its library does not load."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith("llvmlite.binding"):
            raise OSError("libllvmlite.so: cannot open shared object file")


def test_an_llvmlite_that_does_not_load_is_as_none(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("llvmlite")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Unloadable(), *sys.meta_path])
    with pytest.warns(UserWarning, match="without llvmlite: libllvmlite.so: cannot open"):
        assert not compiled.available.__wrapped__()
