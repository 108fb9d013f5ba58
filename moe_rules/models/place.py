"""Where a MoE layer sits in the model, as far as a checkpoint's quantization can name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moe_rules.models.conditions import Context
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.sources import value_of
from moe_rules.vocabulary.record import Record

ROUTED_EXPERTS = "RoutedExperts"
"""vLLM's class of a layer's routed experts, unless the model has a class of its own."""


class Place(Record):
    """One layer's routed experts: module path, the checkpoint's names of the projections, class.

    ``projections`` are gate, up and down; None where a layer without a gate has none.
    """

    name: str
    projections: tuple[str | None, ...]
    experts_class: str = ROUTED_EXPERTS

    @classmethod
    def of(cls, row: Mapping[str, Any], path: str) -> Place:
        """The experts with this module path in a model of an architecture's row."""
        return cls(path, tuple(row["projections"]), row["experts_class"])

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

    def named_values(self) -> dict[str, Any]:
        """The method's ``values``, each from where its row says.

        Raises CheckpointRefusedError for a block that lacks a field.
        """
        row, context = self.method, self.context
        values = {name: value_of(source, context) for name, source in row["values"].items()}
        for name in row["required"]:
            fields = _fields_of(row["values"].get(name), name)
            if values.get(name, context[name]) is None:
                asked = " or ".join(map(repr, fields))
                raise CheckpointRefusedError(f"the quantization block does not give {asked}")
            first = next((field for field in fields if context.has(field)), None)
            if first is not None and context[first] is None:
                raise CheckpointRefusedError(f"the quantization block gives null for {first!r}")
        return values


def _fields_of(source: Any, name: str) -> list[str]:
    """The fields that a value is read from, where its row names these alone; else the value.

    vLLM reads the first one that is there, be it null.
    """
    named = source if isinstance(source, list) else [source]
    return named if all(isinstance(one, str) for one in named) else [name]
