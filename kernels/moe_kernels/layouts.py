"""From checkpoint tensors to what a kernel takes.

Kernels here take the checkpoint's layout: w13 [E, 2I, H], w2 [E, H, I], scales as
:class:`moe_kernels.quant_config.FusedMoEQuantConfig` has them. What remains is that checkpoints
store per-tensor scales once per shard (gate and up apart) or per expert, where a kernel takes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from moe_kernels.quantization.fp8 import dequantize, quantize
from moe_rules.quant_keys import CHANNEL, TENSOR, TOKEN, QuantKey


class LayerWeights(NamedTuple):
    """The tensors of one layer that a conversion may change."""

    w13: torch.Tensor
    w2: torch.Tensor
    w13_scale: torch.Tensor | None = None
    w2_scale: torch.Tensor | None = None
    a13_scale: torch.Tensor | None = None
    a2_scale: torch.Tensor | None = None


def _canonical(weights: LayerWeights, weight_key: QuantKey | None) -> LayerWeights:
    """One scale per expert (tensor), [E, N, 1] (channel), one activation scale."""
    w13, w2, w13_scale, w2_scale, a13_scale, a2_scale = weights
    if weight_key is not None and w13_scale is not None and w2_scale is not None:
        shape, num_experts = weight_key.scale.group_shape, w13.shape[0]
        if shape == TENSOR:
            if w13_scale.numel() == 2 * num_experts:
                w13, w13_scale = _merge_shards(w13, w13_scale.reshape(num_experts, 2))
            w13_scale = w13_scale.reshape(-1).expand(num_experts).contiguous()
            w2_scale = w2_scale.reshape(-1).expand(num_experts).contiguous()
        elif shape in (CHANNEL, TOKEN):
            w13_scale = w13_scale.reshape(num_experts, w13.shape[1], 1)
            w2_scale = w2_scale.reshape(num_experts, w2.shape[1], 1)
        w13_scale, w2_scale = w13_scale.float(), w2_scale.float()
    return LayerWeights(w13, w2, w13_scale, w2_scale, _largest(a13_scale), _largest(a2_scale))


def _largest(scale: torch.Tensor | None) -> torch.Tensor | None:
    """One static activation scale for all experts and shards: the largest, so that none clips."""
    return None if scale is None else scale.float().max().reshape(1)


def _merge_shards(w13: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Requantize gate and up rows of [E, 2I, H], scaled by [E, 2], to their larger scale, [E]."""
    half = w13.shape[1] // 2
    merged = scale.amax(dim=1)
    out = torch.empty_like(w13)
    for shard in range(2):
        rows = slice(shard * half, (shard + 1) * half)
        values = dequantize(w13[:, rows], scale[:, shard], TENSOR)
        requantized, _ = quantize(values, TENSOR, merged, w13.dtype)
        # Rows that had the larger scale keep their bits.
        same = (scale[:, shard] == merged)[:, None, None]
        out[:, rows] = torch.where(same, w13[:, rows].float(), requantized.float()).to(w13.dtype)
    return out, merged


_CONVERSIONS: dict[str, Callable[[LayerWeights, QuantKey | None], LayerWeights]] = {
    "TritonExperts": _canonical,
    "CPUUnquantizedExperts": _canonical,
    "X86CPUUnquantizedExperts": _canonical,
    "ArmCPUUnquantizedExperts": _canonical,
    "PowerCPUUnquantizedExperts": _canonical,
    "CPUExpertsFp8": _canonical,
    "CPUExpertsFp8W8A8": _canonical,
}


def convert_to_kernel_format(
    kernel_name: str, weights: LayerWeights, weight_key: QuantKey | None = None
) -> LayerWeights:
    """``weights`` as a checkpoint has them, as ``kernel_name`` takes them.

    Scales come in as [], [E] or, for w13, [E, 2] (tensor), [E, N] or [E, N, 1] (channel), blocks
    as they are. Raises ValueError for a kernel that is not one of this package: its provider
    converts for it.
    """
    if kernel_name not in _CONVERSIONS:
        raise ValueError(
            f"no conversion for kernel {kernel_name!r}; expected one of {', '.join(_CONVERSIONS)}"
        )
    return _CONVERSIONS[kernel_name](weights, weight_key)
