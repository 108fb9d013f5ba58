"""The reference against the plainest possible code, and the bounds against real mistakes."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from moe_kernels.reference import relative_error
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS


def test_against_a_loop_over_tokens():
    layer = random_layer(FusedMoEConfig(5, 3, 24, 16, in_dtype="fp32"), num_tokens=7, bias=True)
    w13, w2 = layer.w13.double(), layer.w2.double()
    b13, b2 = layer.quant_config.w13_bias.double(), layer.quant_config.w2_bias.double()
    expected = torch.zeros(7, 24, dtype=torch.float64)
    for token in range(7):
        for weight, expert in zip(layer.topk_weights[token], layer.topk_ids[token], strict=True):
            gate_up = w13[expert] @ layer.hidden_states[token].double() + b13[expert]
            y = w2[expert] @ (F.silu(gate_up[:16]) * gate_up[16:]) + b2[expert]
            expected[token] += weight.double() * y
    torch.testing.assert_close(layer.reference(), expected)


@pytest.mark.parametrize(
    ("weight", "activation"),
    [
        ("kFp8StaticTensorSym", "kFp8StaticTensorSym"),
        ("kFp8StaticTensorSym", "kFp8DynamicTensorSym"),
        ("kFp8StaticChannelSym", "kFp8DynamicTokenSym"),
        ("kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
        ("kInt8StaticChannelSym", "kInt8DynamicTokenSym"),
        ("kInt8StaticTensorSym", "kInt8DynamicTensorSym"),
        ("kMxfp8Static", "kMxfp8Dynamic"),
        ("kMxfp6E3M2Static", "kMxfp6E3M2Dynamic"),
        ("kMxfp6E2M3Static", "kMxfp6E2M3Dynamic"),
        ("kMxfp4Static", "kMxfp4Dynamic"),
        ("kNvfp4Static", "kNvfp4Dynamic"),
    ],
)
def test_a_kernel_that_forgets_to_quantize_is_out_of_bounds(weight, activation):
    config = FusedMoEConfig(8, 2, 256, 256, in_dtype="fp16")
    layer = random_layer(config, NAMED_KEYS[weight], NAMED_KEYS[activation], num_tokens=32)
    wide = relative_error(layer.w13.to(torch.float32), layer.w13.to(torch.float64))
    assert wide == 0.0

    class Forgetful:
        class experts:  # noqa: N801
            quantizes_activations = False

    assert relative_error(layer.reference(Forgetful), layer.reference()) > layer.error_bound()


def test_nan_is_no_small_error():
    assert relative_error(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")
