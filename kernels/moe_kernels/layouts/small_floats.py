"""MX and NVFP4 weights: values stay, save that MXFP6 becomes MXFP8."""

from __future__ import annotations

import torch

from moe_kernels.layouts.scaled import largest
from moe_kernels.layouts.weights import LayerWeights
from moe_kernels.quantization.minifloat import MINIFLOATS, decode
from moe_kernels.quantization.packing import unpack_sextets
from moe_rules.vocabulary.quant_keys import NAMED_KEYS


def _as(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (scale if scale.dtype == dtype else scale.view(dtype)).contiguous()


def mx(weights: LayerWeights) -> LayerWeights:
    """e8m0 scales as uint8, however they come."""
    w13_scale, w2_scale = weights.required_scales()
    return weights._replace(
        w13_scale=_as(w13_scale, torch.uint8),
        w2_scale=_as(w2_scale, torch.uint8),
        a13_scale=largest(weights.a13_scale),
        a2_scale=largest(weights.a2_scale),
    )


def mxfp6_to_mxfp8(weights: LayerWeights, element: str) -> LayerWeights:
    """MXFP6 elements as e4m3, which holds every number of e2m3 and e3m2. Scales stay."""

    def widen(w: torch.Tensor) -> torch.Tensor:
        return decode(unpack_sextets(w), MINIFLOATS[element]).to(torch.float8_e4m3fn)

    return mx(weights)._replace(
        w13=widen(weights.w13), w2=widen(weights.w2), weight_key=NAMED_KEYS["kMxfp8Static"]
    )


def nvfp4(weights: LayerWeights) -> LayerWeights:
    """One second scale per expert where gate and up agree, else one per row of w13.

    w13_scale_2 is [], [E], [E, 1] or [E, 2]. Second activation scales, one for all experts, may
    come as a13_scale_2 or, as vLLM calls them, a13_scale. Raises ValueError without w13_scale_2
    or w2_scale_2.
    """
    w13_scale, w2_scale = weights.required_scales()
    first, second = weights.w13_scale_2, weights.w2_scale_2
    if first is None or second is None:
        raise ValueError("weights in NVFP4 need w13_scale_2 and w2_scale_2, got None")
    num_experts, rows, _ = weights.w13.shape
    first = first.float().reshape(-1)
    if first.numel() == 2 * num_experts:
        shards = first.reshape(num_experts, 2)
        first = shards[:, 0].contiguous()
        if not torch.equal(first, shards[:, 1]):
            first = shards.repeat_interleave(rows // 2, 1)[..., None].contiguous()
    first = first.expand(num_experts).contiguous() if first.numel() == 1 else first
    a13, a2 = weights.a13_scale_2, weights.a2_scale_2
    return weights._replace(
        w13_scale=_as(w13_scale, torch.float8_e4m3fn),
        w2_scale=_as(w2_scale, torch.float8_e4m3fn),
        a13_scale=None,
        a2_scale=None,
        w13_scale_2=first,
        w2_scale_2=second.float().reshape(-1).expand(num_experts).contiguous(),
        a13_scale_2=largest(weights.a13_scale if a13 is None else a13),
        a2_scale_2=largest(weights.a2_scale if a2 is None else a2),
    )
