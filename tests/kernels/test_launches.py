"""What a layer launches: its kernels, and nothing of torch's around them.

Nothing is computed here: launches are counted, and torch's operators beside them.
"""

import pytest
import torch
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer
from torch.utils._python_dispatch import TorchDispatchMode

from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

pytest.importorskip("triton")

import triton
from moe_kernels.experts import two_gemms as experts
from moe_kernels.ops.launcher import Launcher
from moe_kernels.ops.router import route_tokens
from moe_kernels.tiling import rules_of_thumb
from moe_kernels.tiling.devices import has_gluon

LAUNCH_NOTHING = {"aten::empty", "aten::new_empty", "aten::new_empty_strided"}
"""Operators that take memory, and leave it as it is."""

FP8 = "kFp8StaticChannelSym", "kFp8DynamicTokenSym"


class Watch(TorchDispatchMode):
    """The operators of torch that launch something."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        if name not in LAUNCH_NOTHING:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def launched(monkeypatch):
    """What is launched, which is not."""
    launchers = []
    monkeypatch.setattr(Launcher, "__call__", lambda self, *_: launchers.append(self))
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)  # lets tensors on the CPU through
    return launchers


@pytest.mark.parametrize(("num_tokens", "kernels"), [(1, 3), (17, 3), (129, 5)])
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("keys", [None, FP8], ids=["bf16", "fp8"])
def test_a_layer_launches_kernels_alone(
    launched, monkeypatch, num_tokens, kernels, ids_dtype, weights_dtype, keys
):
    """Two GEMMs and a sum, a sort in two, and quantization before each GEMM, in any dtypes."""
    keys = [NAMED_KEYS[key] for key in keys or ()]
    config = FusedMoEConfig(8, 2, 64, 32, in_dtype="bf16")
    layer = random_layer(config, *keys, num_tokens=num_tokens, bias=not keys)
    arguments = layer.arguments()
    arguments["topk_ids"] = arguments["topk_ids"].to(ids_dtype)
    arguments["topk_weights"] = arguments["topk_weights"].to(weights_dtype)
    kernel = bind("TritonExperts", config, layer.quant_config)
    # The operator's own body, which a mode does not see otherwise.
    monkeypatch.setattr(experts, "two_gemms", experts.two_gemms.__wrapped__)
    with Watch() as watch:
        kernel.apply(**arguments)
    assert watch.seen == []
    assert len(launched) == kernels + len(keys)


@pytest.mark.parametrize("bias", [None, torch.zeros(8).half()])
def test_a_router_of_few_tokens_is_two_launches(launched, bias):
    x, weight = torch.randn(5, 64).half(), torch.randn(8, 64).half()
    with Watch() as watch:
        route_tokens.__wrapped__(x, weight, bias, 2, True, torch.float16, torch.int64)
    assert watch.seen == []
    assert len(launched) == 2


@pytest.mark.skipif(not has_gluon(), reason="needs Triton 3.6")
@pytest.mark.parametrize(("num_tokens", "kernels"), [(1024, 6), (2048, 5)])
def test_tokens_are_sorted_where_there_are_few_to_an_expert(
    launched, monkeypatch, num_tokens, kernels
):
    """A sort in two, a copy of tokens in its order, two GEMMs and a sum."""
    monkeypatch.setattr(rules_of_thumb, "specializes_warps", lambda device: True)
    config = FusedMoEConfig(8, 2, 64, 512, in_dtype="bf16")
    layer = random_layer(config, num_tokens=num_tokens)
    bind("TritonExperts", config, layer.quant_config).apply(**layer.arguments())
    assert len(launched) == kernels
