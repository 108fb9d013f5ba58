"""What every class of experts must make of odd routings, for tests on a CPU and on a GPU."""

import functools
from dataclasses import dataclass, replace

import torch
from moe_kernels.benchmark.peers import converted
from moe_kernels.reference import relative_error
from moe_kernels.registry import runs_on_cpu
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

NUM_EXPERTS = 6
NO_EXPERTS = (-1, -7, -(2**40), NUM_EXPERTS, 9999, 2**31 - 1, 2**32, 2**32 + 1)
"""Ids of no expert; those that int32 does not hold are expert 0 or 1 in its bits."""


@dataclass(frozen=True)
class Scheme:
    """A class, and the keys of weights and activations that it is run with."""

    kernel: str
    weight: str | None = None
    activation: str | None = None
    in_dtype: str = "fp16"
    group_size: int | None = None
    oracle: str | None = None

    def __str__(self):
        words = (self.kernel, self.weight, self.activation, self.in_dtype)
        return "-".join(word for word in words if word)

    @property
    def is_fp8_in_triton(self):
        return not runs_on_cpu(self.kernel) and "kFp8" in f"{self.weight}{self.activation}"


def cpu(kernel, *keys, **others):
    return Scheme(kernel, *keys, in_dtype="bf16", **others)


FP8_BLOCK = ("kFp8Static128BlockSym", "kFp8Dynamic128Sym")
FP8_TENSOR = ("kFp8StaticTensorSym", "kFp8DynamicTensorSym")
INT8_TOKEN = ("kInt8StaticChannelSym", "kInt8DynamicTokenSym")
INT8_TENSOR = ("kInt8StaticTensorSym", "kInt8DynamicTensorSym")
SCHEMES = [
    Scheme("TritonExperts"),
    Scheme("TritonExperts", *FP8_BLOCK),
    Scheme("TritonExperts", *FP8_TENSOR),
    Scheme("TritonExperts", "kFp8StaticChannelSym", "kFp8DynamicTokenSym"),
    Scheme("TritonExperts", *INT8_TOKEN),
    Scheme("TritonExperts", *INT8_TENSOR),
    Scheme("BatchedTritonExperts"),
    Scheme("BatchedTritonExperts", *FP8_BLOCK),
    Scheme("BatchedTritonExperts", *FP8_TENSOR),
    Scheme("BatchedTritonExperts", "kFp8StaticChannelSym", "kFp8DynamicTokenSym"),
    Scheme("Int4EmulationTritonExperts"),
    Scheme("TritonWNA16Experts", "kInt4Static", group_size=32),
    Scheme("TritonWNA16Experts", "kInt8Static", group_size=64),
    Scheme("OAITritonExperts", "kMxfp4Static"),
    Scheme("UnfusedOAITritonExperts", "kMxfp4Static"),
    Scheme("OAITritonMxfp4ExpertsMonolithic", "kMxfp4Static"),
    Scheme("OCP_MXQuantizationEmulationTritonExperts", "kMxfp4Static", "kMxfp4Dynamic"),
    Scheme("OCP_MXQuantizationEmulationTritonExperts", "kMxfp4Static", "kFp8DynamicTensorSym"),
    Scheme("Nvfp4QuantizationEmulationTritonExperts", "kNvfp4Static", "kNvfp4Dynamic"),
    Scheme("Mxfp8EmulationTritonExperts", "kMxfp8Static"),
    Scheme("Mxfp8NativeTritonExperts", "kMxfp8Static", "kMxfp8Dynamic"),
    cpu("CPUUnquantizedExperts"),
    cpu("X86CPUUnquantizedExperts"),
    cpu("ArmCPUUnquantizedExperts"),
    cpu("PowerCPUUnquantizedExperts"),
    cpu("CPUExpertsFp8", *FP8_BLOCK),
    cpu("CPUExpertsFp8W8A8", *FP8_BLOCK),
    cpu("CPUExpertsFp8W8A8", *FP8_TENSOR),
    cpu("CPUExpertsMxfp4", "kMxfp4Static"),
    cpu("CPUExpertsInt8", *INT8_TOKEN),
    cpu("CPUExpertsInt8", *INT8_TENSOR),
    cpu("ArmCPUExpertsInt8", *INT8_TOKEN),
    cpu("PowerCPUExpertsInt8", *INT8_TOKEN),
    cpu("ZenCPUExpertsInt8", *INT8_TOKEN),
    cpu("CPUExpertsInt4", "kInt4Static", group_size=32),
    cpu("CPUExpertsInt4", "kInt4W4A8StaticChannelSym", "kInt8DynamicTokenSym", oracle="w4a8_int8"),
    cpu("ZentorchExpertsInt4", "kInt4Static", group_size=32),
]


@functools.lru_cache(maxsize=4)
def make(scheme, num_tokens, device, expert_map=True):
    """A layer as drawn, the arguments of its kernel, and the kernel.

    With a map, half of the experts are local.
    """
    config = FusedMoEConfig(
        NUM_EXPERTS,
        3,
        128,
        128,
        in_dtype=scheme.in_dtype,
        moe_parallel_config=FusedMoEParallelConfig(ep_size=2, use_ep=True)
        if expert_map
        else FusedMoEParallelConfig(),
    )
    keys = (key and NAMED_KEYS[key] for key in (scheme.weight, scheme.activation))
    layer = random_layer(
        config, *keys, num_tokens=num_tokens, device=device, seed=7, group_size=scheme.group_size
    )
    own = converted(layer, scheme.kernel)
    kernel = bind(scheme.kernel, config, own.quant_config, oracle=scheme.oracle)
    arguments = layer.arguments() | {"w13": own.w13, "w2": own.w2}
    return layer, arguments, kernel


def without_experts(layer):
    """Ids (int64), some of which are of no expert, and which pairs are of a local one.

    All of token 1, and of every fourth; in others one in three, in turn each of NO_EXPERTS.
    """
    ids = layer.topk_ids.long().clone()
    num_tokens, top_k = ids.shape
    for token in range(num_tokens):
        for slot in range(top_k):
            if token % 4 == 1 or (token + slot) % 3 == 0:
                ids[token, slot] = NO_EXPERTS[(token * top_k + slot) % len(NO_EXPERTS)]
    known = (ids >= 0) & (ids < NUM_EXPERTS)
    local = layer.expert_map.to(ids.device)[torch.where(known, ids, 0)] >= 0
    return ids, known & local


def check_pairs_without_expert(scheme, num_tokens, device):
    """Against the reference on a routing that has none: their weights are zero there."""
    layer, arguments, kernel = make(scheme, num_tokens, device)
    ids, computed = without_experts(layer)
    output = kernel.apply(**arguments | {"topk_ids": ids})
    elsewhere = (layer.expert_map < 0).nonzero()[0, 0]
    plain = replace(layer, topk_ids=torch.where(computed, layer.topk_ids, elsewhere))
    expected = plain.reference(kernel)
    # With few pairs, roundings do not average; a wrong pair is an error of many times that.
    assert relative_error(output, expected) <= 2 * layer.error_bound(kernel)
    assert not output[~computed.any(1)].any()


def check_same_whatever_they_hold(scheme, num_tokens, device):
    """Bit for bit, with NaN and infinity in weights and rows."""
    layer, arguments, kernel = make(scheme, num_tokens, device)
    ids, computed = without_experts(layer)
    rows = layer.hidden_states.clone()
    rows[~computed.any(1)] = 0
    plain = arguments | {"topk_ids": torch.where(computed, ids, -1), "hidden_states": rows}
    expected = kernel.apply(**plain)
    assert bool(torch.isfinite(expected).all())
    for value in (float("nan"), float("inf")):
        rows = rows.clone()
        rows[~computed.any(1)] = value
        weights = torch.where(computed, layer.topk_weights, value)
        dirty = arguments | {"topk_ids": ids, "topk_weights": weights, "hidden_states": rows}
        assert torch.equal(kernel.apply(**dirty), expected), value


def check_duplicates(scheme, num_tokens, device):
    """An expert named twice by a token counts with both weights; by all tokens, too."""
    layer, arguments, kernel = make(scheme, num_tokens, device, expert_map=False)
    weights = layer.topk_weights
    for ids in (
        torch.zeros_like(layer.topk_ids),
        torch.full_like(layer.topk_ids, NUM_EXPERTS - 1),
        torch.stack([layer.topk_ids[:, i] for i in (0, 1, 0)], 1),
    ):
        first = ids == ids[:, :1]
        # The same pairs once, with the sum of weights.
        once = torch.where(first, -1, ids)
        once[:, 0] = ids[:, 0]
        summed = weights.clone()
        summed[:, 0] = torch.where(first, weights, 0).sum(1)
        expected = kernel.apply(**arguments | {"topk_ids": once, "topk_weights": summed})
        output = kernel.apply(**arguments | {"topk_ids": ids})
        bound = 2e-2 if scheme.in_dtype == "bf16" else 3e-3
        assert relative_error(output, expected.double()) <= bound
        assert torch.equal(kernel.apply(**arguments | {"topk_ids": ids}), output)


CHECKS = (check_pairs_without_expert, check_same_whatever_they_hold, check_duplicates)
"""Each of a scheme, so many tokens, and a device."""
