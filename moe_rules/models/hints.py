"""What a user should hear of a checkpoint that is hardly meant as vLLM reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_rules.models.conditions import Context
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.formats import FORMATS
from moe_rules.models.place import Checkpoint, Place

EXCLUSIONS = ("ignore", "ignored_layers", "exclude", "exclude_modules", "modules_to_not_convert")
"""Fields that name what a checkpoint leaves unquantized, in any format."""


def names_no_experts(checkpoint: Checkpoint, places: Sequence[Place]) -> str | None:
    """A hint where a quantized checkpoint quantizes no experts, although it leaves none out."""
    block = _without_exclusions(checkpoint.block)
    context = Context(block, **checkpoint.context.groups)
    everything = checkpoint.replaced(block=block, context=context)
    try:
        resolve = FORMATS[checkpoint.method["format"]](everything)
        if not places or any(resolve(place) is not None for place in places):
            return None
    except CheckpointRefusedError:  # it names experts, although in a way that must stay left out
        return None
    called = next(name for name in places[0].projection_names() if not name.endswith("None"))
    return (
        "the checkpoint is quantized, but nothing that it quantizes has the name of an expert: the "
        f"experts are loaded unquantized (the first is called {called} here)"
    )


def names_no_method(place: str) -> str | None:
    """A hint where the checkpoint has a quantization block, at this place, that names no method."""
    if not place:
        return None
    return f"{place} has no quant_method: vLLM takes the checkpoint for an unquantized one"


def _without_exclusions(block: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: [] if name in EXCLUSIONS else value for name, value in block.items()}
    inner = kept.get("quantization")
    if isinstance(inner, Mapping):
        kept["quantization"] = _without_exclusions(inner)
    return kept
