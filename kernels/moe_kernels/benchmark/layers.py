"""The inputs of one measurement: a layer's weights, and several sets of tokens to rotate over."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from moe_kernels.benchmark.shapes import ROUTINGS, Scheme, Shape
from moe_kernels.testing import RandomLayer, random_layer


@dataclass(frozen=True)
class Workload:
    """One layer (its weights) with ``inputs``: the same layer with different tokens.

    The first has a token with a local expert if any has: it is compared with the reference, which
    zeros that come of no expert would agree with.
    """

    shape: Shape
    scheme: Scheme
    inputs: list[RandomLayer]


def draw_layer(shape: Shape, scheme: Scheme, seed: int, device: str = "cuda") -> RandomLayer:
    """A layer with random weights and a single token."""
    return random_layer(
        shape.moe_config(scheme.in_dtype),
        scheme.weight_key,
        scheme.activation_key,
        num_tokens=1,
        device=device,
        seed=seed,
        group_size=scheme.group_size,
    )


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


def draw_workload(
    layer: RandomLayer,
    shape: Shape,
    scheme: Scheme,
    num_tokens: int,
    routing: str,
    rotations: int,
    seed: int,
) -> Workload:
    """``rotations`` fresh sets of tokens and routings for the weights of ``layer``."""
    device = layer.w13.device
    generator = torch.Generator(device).manual_seed(seed)
    inputs = []
    for _ in range(rotations):
        hidden_states = torch.empty(
            num_tokens, shape.hidden, dtype=layer.hidden_states.dtype, device=device
        ).normal_(generator=generator)
        topk_weights, topk_ids = draw_routing(shape, num_tokens, routing, generator)
        inputs.append(
            replace(
                layer, hidden_states=hidden_states, topk_weights=topk_weights, topk_ids=topk_ids
            )
        )
    inputs.sort(key=lambda tokens: not _computes(tokens))
    return Workload(shape, scheme, inputs)


def _computes(layer: RandomLayer) -> bool:
    """Whether a token of ``layer`` has an expert of this rank."""
    if layer.expert_map is None:
        return True
    return bool((layer.expert_map[layer.topk_ids.long()] >= 0).any())


def first_tokens(layer: RandomLayer, count: int) -> RandomLayer:
    """``layer`` with its first ``count`` tokens only."""
    return replace(
        layer,
        hidden_states=layer.hidden_states[:count],
        topk_weights=layer.topk_weights[:count],
        topk_ids=layer.topk_ids[:count],
    )


def rotations(num_tokens: int, shape_bytes: float) -> int:
    """So many inputs that weights read in one call are not in the cache in the next ones."""
    if num_tokens >= 4096:
        return 2
    return 16 if num_tokens <= 64 and shape_bytes < 2e9 else 6
