"""Where a MoE layer sits in the model, as far as a checkpoint's quantization can name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moe_rules.models.conditions import Context
from moe_rules.vocabulary.record import Record


class Place(Record):
    """One layer's routed experts: module path and the checkpoint's names of the projections.

    ``projections`` are gate, up and down; None where a layer without a gate has none.
    """

    name: str
    projections: tuple[str | None, ...]

    def projection_names(self) -> list[str]:
        """The module paths of the first expert's projections."""
        return [f"{self.name}.0.{projection}" for projection in self.projections]


Values = Mapping[str, Any]
"""What a quantized layer's schemes may test."""

LayerResolver = Callable[[Place], Values | None]
"""The values of one layer, or None if the checkpoint leaves it unquantized."""


class Checkpoint(Record):
    """A checkpoint's quantization block with all that its reading needs.

    ``method`` is the method's row of ``quantization.yaml``, ``renaming`` the architecture's
    ``rename`` rules; ``context`` looks names up in the block, and in ``platform``, ``config`` etc.
    """

    block: Mapping[str, Any]
    method: Mapping[str, Any]
    renaming: Mapping[str, Any] | None
    context: Context
