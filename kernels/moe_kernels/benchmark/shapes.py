"""The layers that are measured, their routings, and what they cost at least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from moe_rules.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.quant_keys import NAMED_KEYS, QuantKey

TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
"""The token counts of a full run."""

ROUTINGS = ("uniform", "skewed")
"""skewed: experts are chosen with a probability that falls as 1 / rank (Zipf)."""


@dataclass(frozen=True)
class Shape:
    """One rank's MoE layer. ``ep_size`` > 1: it holds 1 / ep_size of the experts."""

    experts: int
    topk: int
    hidden: int
    intermediate: int
    ep_size: int = 1

    @property
    def local_experts(self) -> int:
        """How many experts this rank holds."""
        return self.experts // self.ep_size

    def moe_config(self) -> FusedMoEConfig:
        """The layer as kernels are told of it: bf16, SwiGLU."""
        parallel = FusedMoEParallelConfig(ep_size=self.ep_size, use_ep=self.ep_size > 1)
        return FusedMoEConfig(
            self.experts,
            self.topk,
            self.hidden,
            self.intermediate,
            moe_parallel_config=parallel,
        )


SHAPES: Mapping[str, Shape] = {
    "mixtral-8x7b": Shape(8, 2, 4096, 14336),
    "qwen3-30b-a3b": Shape(128, 8, 2048, 768),
    "qwen3-235b-tp4": Shape(128, 8, 4096, 384),
    "gpt-oss-120b": Shape(128, 4, 2880, 2880),
    "deepseek-v3-tp8": Shape(256, 8, 7168, 256),
    "deepseek-v3-ep8": Shape(256, 8, 7168, 2048, ep_size=8),
}
"""Named layers of published models: tensor-parallel degrees divide the intermediate size."""


@dataclass(frozen=True)
class Scheme:
    """How a layer is quantized, and what that means for its floor."""

    weight_key: QuantKey | None
    activation_key: QuantKey | None
    weight_bytes: float
    """Per weight, scales included."""
    matrix_rate: str
    """Which measured ceiling bounds its products."""


def _fp8(weight: str, activation: str, weight_bytes: float) -> Scheme:
    return Scheme(NAMED_KEYS[weight], NAMED_KEYS[activation], weight_bytes, "fp8_tflops")


SCHEMES: Mapping[str, Scheme] = {
    "bf16": Scheme(None, None, 2.0, "bf16_tflops"),
    "fp8_block": _fp8("kFp8Static128BlockSym", "kFp8Dynamic128Sym", 1 + 4 / 128**2),
    "fp8_channel": _fp8("kFp8StaticChannelSym", "kFp8DynamicTokenSym", 1.0),
    "fp8_tensor": _fp8("kFp8StaticTensorSym", "kFp8StaticTensorSym", 1.0),
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
    active = torch.unique(local).numel()
    weights = 3 * shape.hidden * shape.intermediate
    tokens = 2 * topk_ids.shape[0] * shape.hidden * 2
    return Cost(active * weights * scheme.weight_bytes + tokens, 2.0 * local.numel() * weights)


def draw_routing(
    shape: Shape, num_tokens: int, routing: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """topk_weights (float32) and topk_ids (int32), [num_tokens, topk], on the generator's device.

    ``topk`` different experts per token, weights that sum to 1. Raises ValueError for a routing
    that is not in ROUTINGS.
    """
    if routing not in ROUTINGS:
        raise ValueError(f"unknown routing {routing!r}; expected one of {', '.join(ROUTINGS)}")
    size = (num_tokens, shape.experts)
    uniform = torch.rand(size, generator=generator, device=generator.device)
    scores = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))  # Gumbel: top-k samples
    if routing == "skewed":
        rank = torch.randperm(shape.experts, generator=generator, device=generator.device)
        scores = scores - torch.log1p(rank.float())
    topk_ids = scores.topk(shape.topk, dim=1).indices.to(torch.int32)
    weights = torch.rand(topk_ids.shape, generator=generator, device=generator.device) + 0.1
    return weights / weights.sum(dim=1, keepdim=True), topk_ids
