"""Conversions keep the values."""

from dataclasses import replace

import pytest
import torch
from checkpoints import FORMATS, checkpoint
from computed_pairs import SCHEMES, Scheme
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_kernels.layouts import LayerWeights, convert_to_kernel_format
from moe_kernels.quantization.fp8 import dequantize, quantize
from moe_kernels.quantization.integers import quantize_integer
from moe_kernels.quantization.packing import pack_words
from moe_kernels.quantization.schemes import QuantizedWeight, dequantize_weight
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer
from read_back import values

from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import CHANNEL, NAMED_KEYS, TENSOR

TENSOR_KEY = NAMED_KEYS["kFp8StaticTensorSym"]


def test_unquantized_weights_stay():
    weights = LayerWeights(torch.randn(2, 8, 4), torch.randn(2, 4, 4))
    converted = convert_to_kernel_format("TritonExperts", weights)
    assert converted.w13 is weights.w13
    assert converted.w2 is weights.w2


STATIC = (
    Scheme("TritonExperts", *["kFp8StaticTensorSym"] * 2),
    Scheme("OCP_MXQuantizationEmulationTritonExperts", "kMxfp4Static", "kFp8StaticTensorSym"),
)


@pytest.mark.parametrize("scheme", [*SCHEMES, *STATIC], ids=str)
def test_a_rank_may_have_no_experts(scheme):
    """Scales of activations are by expert in checkpoints, so that it has none of these either."""
    config = FusedMoEConfig(4, 2, 64, 64, in_dtype=scheme.in_dtype)
    keys = [key and NAMED_KEYS[key] for key in (scheme.weight, scheme.activation)]
    layer = random_layer(config, *keys, num_tokens=3, group_size=scheme.group_size)
    layer = layer.share([], config.moe_parallel_config)
    weights = checkpoint(layer, "moe_wna16")
    if weights.a13_scale is not None:
        weights = weights._replace(a13_scale=torch.empty(0), a2_scale=torch.empty(0, 1))
    converted = convert_to_kernel_format(
        scheme.kernel, weights, keys[0], checkpoint_format="moe_wna16"
    )
    quant_config = replace(layer.quant_config, **converted.quant_fields())
    kernel = bind(scheme.kernel, config, quant_config, oracle=scheme.oracle)
    tensors = {"w13": converted.w13, "w2": converted.w2}
    assert not kernel.apply(**layer.arguments() | tensors).any()


def test_shards_of_w13_get_one_scale():
    torch.manual_seed(0)
    gate, up = torch.randn(3, 4, 16), 3 * torch.randn(3, 4, 16)
    (q_gate, s_gate), (q_up, s_up) = quantize(gate, TENSOR), quantize(up, TENSOR)
    w2, w2_scale = quantize(torch.randn(3, 16, 4), TENSOR)
    w13 = torch.cat([q_gate, q_up], dim=1)
    weights = LayerWeights(w13, w2, torch.stack([s_gate, s_up], dim=1), w2_scale)
    converted = convert_to_kernel_format("TritonExperts", weights, TENSOR_KEY)
    assert converted.w13_scale.tolist() == torch.maximum(s_gate, s_up).tolist()
    before = torch.cat([dequantize(q_gate, s_gate, TENSOR), dequantize(q_up, s_up, TENSOR)], dim=1)
    after = dequantize(converted.w13, converted.w13_scale, TENSOR)
    kept = (torch.stack([s_gate, s_up], 1) == converted.w13_scale[:, None]).repeat_interleave(4, 1)
    assert bool((before == after)[kept].all())
    assert bool(
        ((after - before).abs() <= before.abs() / 16 + converted.w13_scale.max() / 1024).all()
    )


def test_scales_get_their_shapes():
    w13, w2 = (
        torch.zeros(2, 8, 4).to(torch.float8_e4m3fn),
        torch.zeros(2, 4, 4).to(torch.float8_e4m3fn),
    )
    channel = NAMED_KEYS["kFp8StaticChannelSym"]
    assert channel.scale.group_shape == CHANNEL
    converted = convert_to_kernel_format(
        "TritonExperts", LayerWeights(w13, w2, torch.ones(2, 8), torch.ones(2, 4)), channel
    )
    assert converted.w13_scale.shape == (2, 8, 1)
    assert converted.w2_scale.shape == (2, 4, 1)
    static = LayerWeights(w13, w2, torch.tensor(0.5), torch.ones(2), torch.tensor([1.0, 3.0]), None)
    converted = convert_to_kernel_format("TritonExperts", static, TENSOR_KEY)
    assert converted.w13_scale.tolist() == [0.5, 0.5]
    assert converted.a13_scale.tolist() == [3.0]


def test_unknown_kernel():
    weights = LayerWeights(torch.zeros(1, 2, 2), torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match="no conversion for kernel 'MarlinExperts'; expected one"):
        convert_to_kernel_format("MarlinExperts", weights)


INTEGER_KEYS = [
    "kInt4Static",
    "kInt4StaticAsym",
    "kInt4Static32",
    "kInt4Static32Asym",
    "kInt8Static",
]


@pytest.mark.parametrize("kernel", ["TritonWNA16Experts", "CPUExpertsInt4", "ZentorchExpertsInt4"])
@pytest.mark.parametrize("checkpoint_format", FORMATS)
@given(key=st.sampled_from(INTEGER_KEYS), groups=st.sampled_from([32, 64, 128, -1]))
@settings(max_examples=12, deadline=None)
def test_integers_in_groups_stay_exactly(kernel, checkpoint_format, key, groups):
    key = NAMED_KEYS[key]
    if checkpoint_format == "auto_awq" and key.dtype == "uint8b128":
        return
    layer = random_layer(FusedMoEConfig(2, 2, 128, 128), key, group_size=groups)
    before = checkpoint(layer, checkpoint_format)
    # INT4 is packed for CPUs in bf16 only.
    options = {"checkpoint_format": checkpoint_format, "dtype": torch.float32}
    after = convert_to_kernel_format(kernel, before, key, **options)
    config = layer.quant_config
    for name in ("w13", "w2"):
        parts = (getattr(config, name + part) for part in ("_scale", "_zp"))
        expected = dequantize_weight(
            QuantizedWeight(getattr(layer, name), *parts), key, torch.float64
        )
        assert torch.equal(values(after, name, kernel), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("checkpoint_format", FORMATS)
@pytest.mark.parametrize("key", ["kInt4Static32", "kInt4StaticAsym"])
def test_int4_that_is_dequantized_is_rounded_once(key, checkpoint_format, dtype):
    key = NAMED_KEYS[key]
    layer = random_layer(FusedMoEConfig(2, 2, 64, 32), key, group_size=32)
    after = convert_to_kernel_format(
        "Int4EmulationTritonExperts",
        checkpoint(layer, checkpoint_format),
        key,
        checkpoint_format=checkpoint_format,
        dtype=dtype,
    )
    assert after.weight_key is None
    config = layer.quant_config
    packed = QuantizedWeight(layer.w13, config.w13_scale, config.w13_zp)
    assert torch.equal(after.w13, dequantize_weight(packed, key).to(dtype))


def test_columns_ordered_by_activation():
    # Quantize permuted columns, store them in their original order with each one's group.
    torch.manual_seed(0)
    order = torch.stack([torch.randperm(64) for _ in range(2)])
    w = torch.randn(2, 32, 64)
    permuted = torch.stack([w[e][:, order[e]] for e in range(2)])
    stored, scale, _ = quantize_integer(permuted, 4, (1, 16), scale_dtype=torch.float16)
    expected = torch.empty_like(w)
    g_idx = torch.empty(2, 64, dtype=torch.int32)
    codes = torch.empty(2, 32, 64, dtype=torch.uint8)
    for e in range(2):
        expected[e][:, order[e]] = stored[e] * scale[e].float().repeat_interleave(16, 1)
        codes[e][:, order[e]] = (stored[e] + 8).to(torch.uint8)
        g_idx[e][order[e]] = torch.arange(64, dtype=torch.int32) // 16
    packed, by_group = pack_words(codes.transpose(1, 2), 4, 1), scale.transpose(1, 2)
    weights = LayerWeights(packed, packed, by_group, by_group, w13_g_idx=g_idx, w2_g_idx=g_idx)
    arguments = (weights, NAMED_KEYS["kInt4Static"])
    options = {"checkpoint_format": "auto_gptq", "dtype": torch.float32}
    after = convert_to_kernel_format("Int4EmulationTritonExperts", *arguments, **options)
    assert torch.equal(after.w13, expected)
    with pytest.raises(ValueError, match="columns are ordered by activation"):
        convert_to_kernel_format("TritonWNA16Experts", *arguments, **options)


def test_int8_shards_get_one_scale():
    torch.manual_seed(0)
    gate, up = torch.randn(3, 4, 16), 3 * torch.randn(3, 4, 16)
    (q_gate, s_gate, _), (q_up, s_up, _) = (quantize_integer(w, 8, TENSOR) for w in (gate, up))
    w2, w2_scale, _ = quantize_integer(torch.randn(3, 16, 4), 8, TENSOR)
    weights = LayerWeights(
        torch.cat([q_gate, q_up], 1), w2, torch.stack([s_gate, s_up], 1), w2_scale
    )
    key = NAMED_KEYS["kInt8StaticTensorSym"]
    after = values(convert_to_kernel_format("TritonExperts", weights, key), "w13")
    before = torch.cat([q_gate * s_gate[:, None, None], q_up * s_up[:, None, None]], dim=1)
    step = torch.maximum(s_gate, s_up)[:, None, None]
    assert bool(((after - before).abs() <= 0.501 * step).all())
    assert bool((after - before)[:, 4:].abs().max() < 1e-6)


def test_second_scales_of_shards_are_kept_apart():
    key = NAMED_KEYS["kNvfp4Static"]
    layer = random_layer(FusedMoEConfig(3, 2, 64, 32), key, NAMED_KEYS["kNvfp4Dynamic"])
    before = checkpoint(layer)
    shards = torch.stack([before.w13_scale_2, 2 * before.w13_scale_2], dim=1)
    inputs = {"a13_scale": torch.tensor([[1.0, 3.0]] * 3), "a13_scale_2": None}
    weights = before._replace(w13_scale_2=shards, **inputs)
    after = convert_to_kernel_format("Nvfp4QuantizationEmulationTritonExperts", weights, key)
    assert after.a13_scale_2.tolist() == [3.0]
    expected = values(before._replace(weight_key=key), "w13")
    expected[:, 32:] *= 2
    kernel = "Nvfp4QuantizationEmulationTritonExperts"
    assert torch.equal(values(after, "w13", kernel), expected)
    agreeing = before._replace(w13_scale_2=torch.stack([before.w13_scale_2] * 2, dim=1))
    after = convert_to_kernel_format("Nvfp4QuantizationEmulationTritonExperts", agreeing, key)
    assert torch.equal(after.w13_scale_2, before.w13_scale_2)


def test_what_is_missing_or_another_layout_is_named():
    key = NAMED_KEYS["kInt4StaticAsym"]
    layer = random_layer(FusedMoEConfig(2, 2, 64, 32), key, group_size=32)
    weights = checkpoint(layer)
    cases = [
        ({"w13_scale": None}, {}, "need w13_scale and w2_scale, got only one"),
        ({"w2_zp": None}, {}, "need w13_zp and w2_zp"),
        ({}, {"checkpoint_format": "moe_wna16"}, r"weights of moe_wna16 are torch.uint8, got"),
        ({}, {"checkpoint_format": "exl2"}, "unknown checkpoint format 'exl2'; expected one of"),
    ]
    for changes, options, message in cases:
        with pytest.raises(ValueError, match=message):
            convert_to_kernel_format(
                "TritonWNA16Experts", weights._replace(**changes), key, **options
            )
