"""The tensors of one layer that conversions change."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from moe_kernels.cpu.packed_weights import PackedWeights
from moe_rules.vocabulary.quant_keys import QuantKey


class LayerWeights(NamedTuple):
    """w13 and w2 with everything that turns them into values; shapes depend on the layout.

    ``w13_g_idx``, ``w2_g_idx``: [E, K] integers, the group of each column, where GPTQ ordered
    columns by activation; None: column k is in group k // g.
    ``weight_key``: how the weights are quantized, set by a conversion.
    ``others``: what another package's conversion was given and made besides.
    ``packed``: what holds the values where w13 and w2 only stand for them, set by a conversion.

    The other names are those of :class:`moe_kernels.quant_config.FusedMoEQuantConfig`.
    """

    w13: torch.Tensor
    w2: torch.Tensor
    w13_scale: torch.Tensor | None = None
    w2_scale: torch.Tensor | None = None
    a13_scale: torch.Tensor | None = None
    a2_scale: torch.Tensor | None = None
    w13_zp: torch.Tensor | None = None
    w2_zp: torch.Tensor | None = None
    w13_scale_2: torch.Tensor | None = None
    w2_scale_2: torch.Tensor | None = None
    a13_scale_2: torch.Tensor | None = None
    a2_scale_2: torch.Tensor | None = None
    w13_g_idx: torch.Tensor | None = None
    w2_g_idx: torch.Tensor | None = None
    weight_key: QuantKey | None = None
    packed: PackedWeights | None = None
    others: Mapping[str, Any] = MappingProxyType({})

    def required_scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """w13_scale and w2_scale. Raises ValueError if one is missing."""
        if self.w13_scale is None or self.w2_scale is None:
            raise ValueError(
                f"weights quantized as {self.weight_key} need w13_scale and w2_scale, got "
                f"{'only one' if self.w13_scale is not self.w2_scale else 'neither'}"
            )
        return self.w13_scale, self.w2_scale

    def quant_fields(self) -> dict[str, Any]:
        """What :class:`moe_kernels.quant_config.FusedMoEQuantConfig` takes of these, by name."""
        others = ("w13", "w2", "w13_g_idx", "w2_g_idx", "others")
        return {name: value for name, value in self._asdict().items() if name not in others}
