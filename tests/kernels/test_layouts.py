"""Conversions keep the values."""

import pytest
import torch
from moe_kernels.layouts import LayerWeights, convert_to_kernel_format
from moe_kernels.quantization.fp8 import dequantize, quantize

from moe_rules.quant_keys import CHANNEL, NAMED_KEYS, TENSOR

TENSOR_KEY = NAMED_KEYS["kFp8StaticTensorSym"]


def test_unquantized_weights_stay():
    weights = LayerWeights(torch.randn(2, 8, 4), torch.randn(2, 4, 4))
    converted = convert_to_kernel_format("TritonExperts", weights)
    assert converted.w13 is weights.w13
    assert converted.w2 is weights.w2


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
