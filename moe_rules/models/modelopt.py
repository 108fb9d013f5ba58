"""ModelOpt checkpoints: an algorithm for every layer, or one for each, without some modules.

The block is flat in config.json, or nested below ``quantization`` as in hf_quant_config.json.
Source: vLLM's ``modelopt.py`` (``ModelOptQuantConfigBase.from_config``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.models.blocks import MODELOPT_BLOCK, MODELOPT_MIXED_BLOCK, given, shaped
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.names import SKIP_RULES, Excludes, rename, rename_all, split_trailing_star
from moe_rules.models.place import Checkpoint, LayerResolver, Place, Values

ALGORITHMS = (
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_PB_WO",
    "NVFP4",
    "W4A16_NVFP4",
    "MXFP8",
    "MIXED_PRECISION",
)
_NVFP4_FIELDS = ("group_size", "kv_cache_quant_algo", "exclude_modules")
NESTED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "NVFP4": _NVFP4_FIELDS,
    "W4A16_NVFP4": _NVFP4_FIELDS,
    "MXFP8": ("kv_cache_quant_algo", "exclude_modules"),
}
"""What a nested block must give, if only as null, by its algorithm."""
NESTED = "quantization"
EXPERTS = ".experts."


@shaped(MODELOPT_BLOCK)
def modelopt(checkpoint: Checkpoint) -> LayerResolver:
    """One algorithm for every layer, but for trees of modules that are left out."""
    inner = _inner(checkpoint)
    values = {**inner, "algorithm": _algorithm(inner, checkpoint)}
    excludes = _exclusion(checkpoint)

    def resolve(place: Place) -> Values | None:
        return None if excludes(place.name) else values

    return resolve


@shaped(MODELOPT_MIXED_BLOCK)
def modelopt_mixed(checkpoint: Checkpoint) -> LayerResolver:
    """An algorithm for each layer, in ``quantized_layers``."""
    inner = _inner(checkpoint)
    layers = inner.get("quantized_layers")
    if not layers:
        raise CheckpointRefusedError("MIXED_PRECISION without quantized_layers")
    own, below = _entries_by_module(layers, checkpoint)
    excludes = _exclusion(checkpoint)

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


def _inner(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The fields of the block, nested or flat, without those that its method knows by itself."""
    nested: Mapping[str, Any] | None = checkpoint.block.get(NESTED)
    if nested is not None:
        return nested
    return {**checkpoint.block, **checkpoint.named_values()}


def _algorithm(inner: Mapping[str, Any], checkpoint: Checkpoint) -> str:
    """The upper-case algorithm; NVFP4 that quantizes no group's activations is W4A16_NVFP4."""
    algorithm = str(inner.get("quant_algo") or "").upper()
    if algorithm not in ALGORITHMS:
        raise CheckpointRefusedError(
            f"ModelOpt quant_algo {algorithm!r} is not supported; "
            f"expected one of {', '.join(ALGORITHMS)}"
        )
    if checkpoint.block.get(NESTED) is not None:
        missing = [name for name in NESTED_FIELDS.get(algorithm, ()) if name not in inner]
        if missing:
            raise CheckpointRefusedError(
                f"{NESTED} of ModelOpt's {algorithm} must give {', '.join(missing)}"
            )
    groups = checkpoint.block.get("config_groups")
    weights_only = groups and all(g.get("input_activations") is None for g in groups.values())
    return "W4A16_NVFP4" if algorithm == "NVFP4" and weights_only else algorithm


def _exclusion(checkpoint: Checkpoint) -> Excludes:
    """Which modules are left out, by the first list of the block's layout that is there."""
    skipped = _skipped(checkpoint)
    if checkpoint.renaming is not None:
        skipped = rename_all(split_trailing_star(skipped), checkpoint.renaming)
    return SKIP_RULES["wildcard"](skipped)


def _skipped(checkpoint: Checkpoint) -> list[str]:
    block, skip = checkpoint.block, checkpoint.method["skip"]
    nested = block.get(NESTED) is not None
    if not nested and not block.get("quant_algo"):
        return list(block.get("ignored_layers") or ())  # MiniMax's layout of MXFP8
    fields = [field for field in skip["fields"] if field.startswith(f"{NESTED}.") == nested]
    found = next((field for field in fields if checkpoint.context.has(field)), None)
    return [] if found is None else list(given({found: checkpoint.context[found]}, found))
