"""The inputs of one measurement: a layer's weights, and several sets of tokens to rotate over."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from moe_kernels.testing import RandomLayer, random_layer

from benchmarks.shapes import Scheme, Shape, draw_routing


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
