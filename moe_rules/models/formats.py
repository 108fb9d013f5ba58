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
    MODELOPT_BLOCK,
    MODELOPT_MIXED_BLOCK,
    shaped,
)
from moe_rules.models.compressed_tensors import compressed_tensors
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.names import (
    SKIP_RULES,
    Excludes,
    layer_named,
    named_modules,
    rename,
    rename_all,
    split_trailing_star,
)
from moe_rules.models.patterns import begins
from moe_rules.models.place import Checkpoint, LayerResolver, Place, Values
from moe_rules.models.quark import quark
from moe_rules.models.sources import value_of


def named_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """The method's ``values``, each from where its row says. Refuses a block that lacks a field."""
    row = checkpoint.method
    values = {name: value_of(source, checkpoint.context) for name, source in row["values"].items()}
    for name in row["required"]:
        if values.get(name, checkpoint.context[name]) is None:
            fields = _fields_of(row["values"].get(name), name)
            raise CheckpointRefusedError(f"the quantization block does not give {fields}")
    return values


def _fields_of(source: Any, name: str) -> str:
    """The fields that a value is read from, where its row names these alone; else the value."""
    named = source if isinstance(source, list) else [source]
    return " or ".join(map(repr, named if all(isinstance(one, str) for one in named) else [name]))


@shaped(BLOCK)
def plain(checkpoint: Checkpoint) -> LayerResolver:
    """One scheme for every layer, but for a list of names that are left out.

    ``named`` holds whether the method's other lists of names have the layer; their entries are not
    renamed.
    """
    values = {**checkpoint.block, **named_values(checkpoint)}
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
    values = {**checkpoint.block, **named_values(checkpoint)}
    dynamic = checkpoint.block.get("dynamic") or {}
    _refuse_activation_order(values, dynamic)
    shared = {name: values[name] for name in ("bits", "group_size", "symmetric", "zero_point")}

    def resolve(place: Place) -> Values | None:
        for rule, override in dynamic.items():
            if begins(rule[2:] if rule[:2] in ("-:", "+:") else rule, place.name):
                if rule.startswith("-:"):
                    return {**values, "own": shared, "left_out": True}
                return {**values, "own": {**shared, **_dynamic_values(override)}}
        return {**values, "own": shared}

    return resolve


def _dynamic_values(override: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a rule changes, under the names the schemes use."""
    if not override:
        return {}
    changed = {key: override[key] for key in ("bits", "group_size") if key in override}
    if "sym" in override:
        changed.update(symmetric=override["sym"], zero_point=not override["sym"])
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


@shaped(MODELOPT_BLOCK)
def modelopt(checkpoint: Checkpoint) -> LayerResolver:
    """ModelOpt: one algorithm for every layer, but for trees of modules that are left out."""
    inner = {**_modelopt_inner(checkpoint), **named_values(checkpoint)}
    values = {**inner, "algorithm": _modelopt_algorithm(inner)}
    excludes = _modelopt_exclusion(checkpoint)

    def resolve(place: Place) -> Values | None:
        return None if excludes(place.name) else values

    return resolve


EXPERTS = ".experts."


@shaped(MODELOPT_MIXED_BLOCK)
def modelopt_mixed(checkpoint: Checkpoint) -> LayerResolver:
    """ModelOpt with an algorithm for each layer, in ``quantized_layers``."""
    inner = _modelopt_inner(checkpoint)
    layers = inner.get("quantized_layers")
    if not layers:
        raise CheckpointRefusedError("MIXED_PRECISION without quantized_layers")
    own, below = _entries_by_module(layers, checkpoint)
    excludes = _modelopt_exclusion(checkpoint)

    def resolve(place: Place) -> Values | None:
        entry = None if excludes(place.name) else _mixed_entry(place.name, own, below)
        if entry is None:
            return None
        size = entry.get("group_size", 128)
        algorithm = str(entry.get("quant_algo", "")).upper()
        return {**entry, "algorithm": algorithm, "weight_block_size": [size, size]}

    return resolve


def _entries_by_module(
    layers: Mapping[str, Any], checkpoint: Checkpoint
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry of each named module, and for every module the first entry of one below it.

    The many entries below one module of experts are taken together: they are renamed alike.
    """
    together: dict[str, Any] = {}
    for name, entry in layers.items():
        end = name.find(EXPERTS)
        together.setdefault(name if end < 0 else name[: end + len(EXPERTS) - 1], entry)
    own = {rename(name, checkpoint.renaming): entry for name, entry in together.items()}
    below: dict[str, Any] = {}
    for name, entry in own.items():
        module = name.rpartition(".")[0]
        while module and module not in below:
            below[module] = entry
            module = module.rpartition(".")[0]
    return own, below


def _mixed_entry(name: str, own: Mapping[str, Any], below: Mapping[str, Any]) -> Any:
    """A layer's own entry or one below it; for experts, else one of the modules beside them."""
    names = [name]
    for ours, other in (
        ("language_model.model.", "model.language_model."),
        ("model.language_model.", "language_model.model."),
    ):
        if name.startswith(ours):
            names.append(other + name[len(ours) :])
            break
    beside = [name.removesuffix(".experts")] if name.endswith(".experts") else []
    found = [own.get(one) for one in names] + [below.get(one) for one in names + beside]
    return next((entry for entry in found if entry is not None), None)


def _modelopt_inner(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The block proper: nested in hf_quant_config.json, flat in config.json."""
    inner = checkpoint.block.get("quantization")
    return checkpoint.block if inner is None else inner


MODELOPT_ALGORITHMS = (
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_PB_WO",
    "NVFP4",
    "W4A16_NVFP4",
    "MXFP8",
    "MIXED_PRECISION",
)


def _modelopt_algorithm(inner: Mapping[str, Any]) -> str:
    """The upper-case algorithm; NVFP4 that quantizes no group's activations is W4A16_NVFP4."""
    algorithm = str(inner.get("quant_algo") or "").upper()
    if algorithm not in MODELOPT_ALGORITHMS:
        raise CheckpointRefusedError(
            f"ModelOpt quant_algo {algorithm!r} is not supported; "
            f"expected one of {', '.join(MODELOPT_ALGORITHMS)}"
        )
    groups = inner.get("config_groups")
    weights_only = groups and all(g.get("input_activations") is None for g in groups.values())
    return "W4A16_NVFP4" if algorithm == "NVFP4" and weights_only else algorithm


def _modelopt_exclusion(checkpoint: Checkpoint) -> Excludes:
    skip = checkpoint.method["skip"]
    skipped = named_modules(skip["fields"] if skip else (), checkpoint.context)
    if checkpoint.renaming is not None:
        skipped = rename_all(split_trailing_star(skipped), checkpoint.renaming)
    return SKIP_RULES["wildcard"](skipped)


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
