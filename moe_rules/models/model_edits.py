"""How a model class of vLLM changes a checkpoint's quantization for its routed experts.

A class may reword the block that the checkpoint ships, leave out other modules than the method
would, or run quantized experts itself; ``quantization`` of a row of ``architectures.yaml`` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from moe_rules.models.conditions import Context, holds
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.names import layer_named
from moe_rules.models.place import Checkpoint, LayerResolver, Place, Values
from moe_rules.models.sources import value_of
from moe_rules.vocabulary.record import Record


class Edits(Record):
    """The changes that apply to one checkpoint."""

    entries: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, entries: Iterable[Mapping[str, Any]], in_block: Context) -> Edits:
        """Those of a row's entries whose conditions hold."""
        return cls(tuple(one for one in entries if holds(one.get("when", {}), in_block)))

    def applied(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint as the model class rewords it."""
        for entry in self.entries:
            context = checkpoint.context
            values = {name: value_of(of, context) for name, of in entry.get("set", {}).items()}
            block = {**checkpoint.block, **values}
            method = checkpoint.method
            if "skip" in entry:
                method = {**method, "skip": entry["skip"]}
            context = Context(block, **context.groups)
            checkpoint = checkpoint.replaced(block=block, method=method, context=context)
        return checkpoint

    def around(self, resolve: LayerResolver, checkpoint: Checkpoint) -> LayerResolver:
        """What holds for a layer, with the modules left out that the model class leaves out."""
        left_out = [
            layer_named(entry["also_skip"], checkpoint.context, checkpoint.renaming)
            for entry in self.entries
            if "also_skip" in entry
        ]
        if not left_out:
            return resolve

        def resolved(place: Place) -> Values | None:
            return None if any(one(place.name) for one in left_out) else resolve(place)

        return resolved

    def refuse(self) -> None:
        """Raise CheckpointRefusedError where the model class does not take the quantization."""
        for entry in self.entries:
            if "refuse" in entry:
                raise CheckpointRefusedError(entry["refuse"], "model")

    def own_kernels(self, *, quantized: bool) -> str | None:
        """Why no oracle is asked, if the class runs quantized (or other) experts itself."""
        key = "no_oracle" if quantized else "no_oracle_unquantized"
        return next((one[key] for one in self.entries if key in one), None)
