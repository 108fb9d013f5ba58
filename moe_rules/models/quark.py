"""AMD Quark checkpoints: a scheme for all layers, and others by module path.

Source: vLLM's ``quark/quark.py`` (``_find_matched_config``) and ``quark/utils.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from moe_rules.models.blocks import QUARK_BLOCK, given, shaped
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.names import SKIP_RULES, rename, rename_all
from moe_rules.models.place import Checkpoint, LayerResolver, Place, Values


@shaped(QUARK_BLOCK)
def quark(checkpoint: Checkpoint) -> LayerResolver:
    """The layer's own scheme (``layer_quant_config``), else ``global_quant_config``.

    Values: ``weight`` and ``input``, each a mapping, or a list for a scheme of several levels;
    ``packed`` (integers are packed) and ``group_size`` of the weights.
    """
    block = checkpoint.block
    export = given(block, "export")
    given(export, "kv_cache_group", where="export.")
    names = rename_all(given(block, "exclude"), checkpoint.renaming)
    excludes = SKIP_RULES["pattern_or_child"](names)
    by_name = {
        rename(name, checkpoint.renaming): scheme
        for name, scheme in (block.get("layer_quant_config") or {}).items()
    }

    def resolve(place: Place) -> Values | None:
        if excludes(place.name):
            return None
        given(block, "layer_type_quant_config")
        scheme = _scheme_of(place.name, by_name) or block.get("global_quant_config") or {}
        if scheme.get("output_tensors") or scheme.get("bias"):
            raise CheckpointRefusedError(
                "Quark schemes for output_tensors or bias are not supported", "quant_method"
            )
        weight = _single(scheme.get("weight"))
        return {
            "weight": weight,
            "input": _single(scheme.get("input_tensors")),
            "packed": export.get("pack_method") in ("order", "reorder"),
            "group_size": weight.get("group_size") if isinstance(weight, Mapping) else None,
        }

    return resolve


def _scheme_of(name: str, by_name: Mapping[str, Any]) -> Any:
    for pattern, scheme in by_name.items():
        if fnmatch(name, pattern) if "*" in pattern else name in pattern:
            return scheme
    return None


def _single(levels: Any) -> Any:
    """A scheme of one level, without the list around it."""
    return levels[0] if isinstance(levels, list) and len(levels) == 1 else levels
