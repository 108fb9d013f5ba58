"""The inputs of one measurement: a layer's weights, and several sets of tokens to rotate over."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from moe_kernels.benchmark.shapes import Scheme, Shape, draw_routing
from moe_kernels.testing import RandomLayer, random_layer


@dataclass(frozen=True)
class Workload:
    """One layer (its weights) with ``inputs``: the same layer with different tokens."""

    shape: Shape
    scheme: Scheme
    inputs: list[RandomLayer]


def draw_layer(shape: Shape, scheme: Scheme, seed: int, device: str = "cuda") -> RandomLayer:
    """A layer with random weights and a single token."""
    keys = scheme.weight_key, scheme.activation_key
    return random_layer(shape.moe_config(), *keys, num_tokens=1, device=device, seed=seed)


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
    return Workload(shape, scheme, inputs)


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
