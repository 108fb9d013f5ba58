"""How checkpoints lay out their quantization: from a block to what holds for one layer.

Each format is a function from a :class:`Checkpoint` to a resolver, which gives a layer's values (or
None for a layer left unquantized). The block is read once; the resolver is asked for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moe_rules.models.auto_round import auto_round
from moe_rules.models.blocks import (
    BLOCK,
    GPTQ_BLOCK,
    shaped,
)
from moe_rules.models.compressed_tensors import compressed_tensors
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.modelopt import modelopt, modelopt_mixed
from moe_rules.models.names import layer_named
from moe_rules.models.patterns import begins
from moe_rules.models.place import Checkpoint, LayerResolver, Place, Values
from moe_rules.models.quark import quark


@shaped(BLOCK)
def plain(checkpoint: Checkpoint) -> LayerResolver:
    """One scheme for every layer, but for a list of names that are left out.

    ``named`` holds whether the method's other lists of names have the layer; their entries are not
    renamed.
    """
    values = {**checkpoint.block, **checkpoint.named_values()}
    skip, context = checkpoint.method["skip"], checkpoint.context
    excludes = layer_named(skip, context, checkpoint.renaming) if skip else None
    lists = {
        name: layer_named(one, context, None) for name, one in checkpoint.method["named"].items()
    }

    def resolve(place: Place) -> Values | None:
        if excludes and excludes(place.name):
            return None
        if not lists:
            return values
        return {**values, "named": {name: has(place.name) for name, has in lists.items()}}

    return resolve


@shaped(GPTQ_BLOCK)
def gptq(checkpoint: Checkpoint) -> LayerResolver:
    """GPTQModel: one scheme, with ``dynamic`` rules ("-:regex" leaves out, "+:regex" overrides).

    The first rule that matches the module path from its start decides: ``own`` are the layer's
    settings, ``left_out`` says that it is not quantized.
    """
    values = {**checkpoint.block, **checkpoint.named_values()}
    dynamic = checkpoint.block.get("dynamic") or {}
    _refuse_activation_order(values, dynamic)
    shared = {name: values[name] for name in ("bits", "group_size", "zero_point")}
    shared["symmetric"] = values["symmetric"] == 1

    def resolve(place: Place) -> Values | None:
        for rule, override in dynamic.items():
            if begins(rule[2:] if rule[:2] in ("-:", "+:") else rule, place.name):
                if rule.startswith("-:"):
                    return {**values, "own": shared, "left_out": True}
                return {**values, "own": {**shared, **_dynamic_values(override)}}
        return {**values, "own": shared}

    return resolve


def _dynamic_values(override: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a rule changes, under the names the schemes use: vLLM passes over other types."""
    given = override or {}
    changed = {key: given[key] for key in ("bits", "group_size") if isinstance(given.get(key), int)}
    symmetric = given.get("sym")
    if isinstance(symmetric, bool):
        changed.update(symmetric=symmetric, zero_point=not symmetric)
    return changed


def _refuse_activation_order(values: Mapping[str, Any], dynamic: Mapping[str, Any]) -> None:
    """Act-order over groups is gone from vLLM; over one group per channel it changes nothing."""
    declared = bool(values.get("act_order"))
    scopes = [("the checkpoint", declared, values.get("group_size"))]
    for rule, override in dynamic.items():
        if override and not rule.startswith("-:"):
            order = override.get("desc_act", declared)
            scopes.append((f"rule {rule!r}", order, override.get("group_size", scopes[0][2])))
    for scope, ordered, group_size in scopes:
        if ordered and group_size != -1:
            raise CheckpointRefusedError(
                f"{scope} orders groups by activation (desc_act with groups), which vLLM no longer "
                "supports"
            )


FORMATS: dict[str, Callable[[Checkpoint], LayerResolver]] = {
    "plain": plain,
    "gptq": gptq,
    "modelopt": modelopt,
    "modelopt_mixed": modelopt_mixed,
    "compressed_tensors": compressed_tensors,
    "quark": quark,
    "auto_round": auto_round,
}
"""Readers of checkpoint formats, under the names the tables use."""
