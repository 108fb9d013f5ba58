"""The layers that are measured, their schemes and routings, and what they cost at least.

Imports no torch, so that a command line can list them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey

if TYPE_CHECKING:
    import torch

TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
"""The token counts of a full run."""

ROUTINGS = ("uniform", "skewed")
"""skewed: experts are chosen with a probability that falls as 1 / rank (Zipf)."""


@dataclass(frozen=True)
class Shape:
    """One rank's MoE layer. ``ep_size`` > 1: it holds 1 / ep_size of the experts.

    ``activation``: of :mod:`moe_kernels.activation`, gated. ``bias``: of both products.
    """

    experts: int
    topk: int
    hidden: int
    intermediate: int
    ep_size: int = 1
    activation: str = "silu"
    bias: bool = False

    @property
    def local_experts(self) -> int:
        """How many experts this rank holds."""
        return self.experts // self.ep_size

    def moe_config(self, in_dtype: str = "bf16") -> FusedMoEConfig:
        """The layer as kernels are told of it."""
        parallel = FusedMoEParallelConfig(ep_size=self.ep_size, use_ep=self.ep_size > 1)
        return FusedMoEConfig(
            self.experts,
            self.topk,
            self.hidden,
            self.intermediate,
            activation=self.activation,
            in_dtype=in_dtype,
            has_bias=self.bias,
            moe_parallel_config=parallel,
        )


SHAPES: Mapping[str, Shape] = {
    "mixtral-8x7b": Shape(8, 2, 4096, 14336),
    "qwen3-30b-a3b": Shape(128, 8, 2048, 768),
    "qwen3-235b-tp4": Shape(128, 8, 4096, 384),
    "gpt-oss-120b": Shape(128, 4, 2880, 2880, activation="swigluoai", bias=True),
    "deepseek-v3-tp8": Shape(256, 8, 7168, 256),
    "deepseek-v3-ep8": Shape(256, 8, 7168, 2048, ep_size=8),
}
"""Named layers of published models: tensor-parallel degrees divide the intermediate size."""


_GROUP_SCALE_BYTES = 2


@dataclass(frozen=True)
class Scheme:
    """How a layer is quantized, which of our kernels runs it, and what that means for its floor."""

    weight_key: QuantKey | None
    activation_key: QuantKey | None
    weight_bytes: float
    """Per weight, scales included."""
    matrix_rate: str
    """Which measured ceiling bounds its products."""
    kernel: str = "TritonExperts"
    in_dtype: str = "bf16"
    """The layer's dtype."""
    group_size: int | None = None
    """Of integer weights whose key covers whole rows."""
    cpu_kernel: str | None = None
    """Which of our kernels runs it on a CPU; None: none is measured there."""

    def takes(self, shape: Shape) -> bool:
        """Whether groups divide the rows of both weights."""
        size = self.group_size or 1
        return shape.hidden % size == 0 and shape.intermediate % size == 0

    def in_groups_of(self, size: int) -> Scheme:
        """The same integers with a scale per ``size`` of them."""
        assert self.group_size is not None
        scales = _GROUP_SCALE_BYTES * (1 / size - 1 / self.group_size)
        return replace(self, group_size=size, weight_bytes=self.weight_bytes + scales)


def _w8a8(
    weight: str, activation: str, weight_bytes: float, rate: str, cpu_kernel: str | None = None
) -> Scheme:
    keys = NAMED_KEYS[weight], NAMED_KEYS[activation]
    return Scheme(*keys, weight_bytes, rate, cpu_kernel=cpu_kernel)


def _groups(weight: str, weight_bytes: float) -> Scheme:
    """Integers in groups of 128 with fp16 scales, multiplied in the layer's dtype."""
    key, size = NAMED_KEYS[weight], 128
    scale = _GROUP_SCALE_BYTES / size
    return Scheme(
        key, None, weight_bytes + scale, "bf16_tflops", "TritonWNA16Experts", group_size=size
    )


SCHEMES: Mapping[str, Scheme] = {
    "bf16": Scheme(None, None, 2.0, "bf16_tflops", cpu_kernel="CPUUnquantizedExperts"),
    "fp16": Scheme(
        None, None, 2.0, "fp16_tflops", in_dtype="fp16", cpu_kernel="CPUUnquantizedExperts"
    ),
    "fp8_block": _w8a8(
        "kFp8Static128BlockSym",
        "kFp8Dynamic128Sym",
        1 + 4 / 128**2,
        "fp8_tflops",
        "CPUExpertsFp8W8A8",
    ),
    "fp8_channel": _w8a8("kFp8StaticChannelSym", "kFp8DynamicTokenSym", 1.0, "fp8_tflops"),
    "fp8_tensor": _w8a8("kFp8StaticTensorSym", "kFp8StaticTensorSym", 1.0, "fp8_tflops"),
    "int8_w8a8": _w8a8(
        "kInt8StaticChannelSym", "kInt8DynamicTokenSym", 1.0, "int8_tflops", "CPUExpertsInt8"
    ),
    "int8_w8a16": _groups("kInt8Static", 1.0),
    "int4_w4a16": _groups("kInt4Static", 0.5),
    "mxfp4_w4a16": Scheme(
        NAMED_KEYS["kMxfp4Static"], None, 0.5 + 1 / 32, "bf16_tflops", "OAITritonExperts"
    ),
}


@dataclass(frozen=True)
class Cost:
    """The least that a layer has to move and compute for one routing."""

    bytes: float
    flops: float

    def floor_us(self, gbps: float, tflops: float) -> float:
        """The time that the larger of both takes, in microseconds."""
        return max(self.bytes / gbps * 1e-3, self.flops / tflops * 1e-6)


def cost(shape: Shape, scheme: Scheme, topk_ids: torch.Tensor) -> Cost:
    """Weights of every active local expert once, tokens in and out; two products per pair."""
    local = topk_ids[topk_ids < shape.local_experts]
    active = len(set(local.tolist()))
    weights = 3 * shape.hidden * shape.intermediate
    tokens = 2 * topk_ids.shape[0] * shape.hidden * 2
    return Cost(active * weights * scheme.weight_bytes + tokens, 2.0 * local.numel() * weights)
