"""FP8 and INT8 weights: values stay, scales get one shape.

Checkpoints store per-tensor scales once per shard (gate and up apart) or per expert, where a
kernel takes one, and channel scales with or without a last dimension.
"""

from __future__ import annotations

import torch

from moe_kernels.layouts.weights import LayerWeights
from moe_rules.vocabulary.quant_keys import CHANNEL, TENSOR, TOKEN, QuantKey


def canonical_scales(weights: LayerWeights, key: QuantKey) -> LayerWeights:
    """One scale per expert (tensor), [E, N, 1] (channel), groups as they are.

    w13's scales per tensor may be [], [E] or, for gate and up, [E, 2]; of the latter the larger is
    kept, and the shard with the smaller requantized.
    """
    w13_scale, w2_scale = weights.required_scales()
    w13, w2 = weights.w13, weights.w2
    num_experts = w13.shape[0]
    if key.scale.group_shape == TENSOR:
        if w13_scale.numel() == 2 * num_experts:
            w13, w13_scale = _merge_shards(w13, w13_scale.reshape(num_experts, 2))
        w13_scale = w13_scale.reshape(-1).expand(num_experts).contiguous()
        w2_scale = w2_scale.reshape(-1).expand(num_experts).contiguous()
    elif key.scale.group_shape in (CHANNEL, TOKEN) and w13_scale.numel() == w13[..., 0].numel():
        w13_scale = w13_scale.reshape(num_experts, w13.shape[1], 1)
        w2_scale = w2_scale.reshape(num_experts, w2.shape[1], 1)
    if key.scale.dtype == "fp32":
        w13_scale, w2_scale = w13_scale.float(), w2_scale.float()
    return weights._replace(
        w13=w13,
        w2=w2,
        w13_scale=w13_scale.contiguous(),
        w2_scale=w2_scale.contiguous(),
        a13_scale=largest(weights.a13_scale),
        a2_scale=largest(weights.a2_scale),
    )


def largest(scale: torch.Tensor | None) -> torch.Tensor | None:
    """One static activation scale for all experts and shards: the largest, so that none clips.

    1 where there are none.
    """
    if scale is not None and scale.numel() == 0:
        scale = scale.new_ones(1)
    return None if scale is None else scale.float().max().reshape(1)


def _merge_shards(w13: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Requantize gate and up rows of [E, 2I, H], scaled by [E, 2], to their larger scale, [E]."""
    half = w13.shape[1] // 2
    merged = scale.amax(dim=1)
    out = torch.empty_like(w13)
    for shard in range(2):
        rows = slice(shard * half, (shard + 1) * half)
        # Rows that have the larger scale keep their bits: the ratio is 1.
        values = w13[:, rows].float() * (scale[:, shard] / merged)[:, None, None]
        out[:, rows] = (values if w13.dtype.is_floating_point else values.round()).to(w13.dtype)
    return out, merged
