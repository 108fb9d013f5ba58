"""compressed-tensors checkpoints: groups of schemes, each for the modules that its targets match.

Source: the format's ``QuantizationArgs`` (compressed-tensors 0.17) and vLLM's
``compressed_tensors/compressed_tensors.py`` and ``compressed_tensors/utils.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.models.blocks import (
    COMPRESSED_TENSORS_BLOCK,
    QUANTIZATION_ARGUMENTS,
    given,
    shaped,
)
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.names import matches_pattern, rename
from moe_rules.models.place import ROUTED_EXPERTS, Checkpoint, LayerResolver, Place, Values
from moe_rules.models.suggest import unknown_name
from moe_rules.models.typed import shown

FORMATS_WITH_ACTIVATIONS = (
    "naive-quantized",
    "int-quantized",
    "float-quantized",
    "nvfp4-pack-quantized",
)


@shaped(COMPRESSED_TENSORS_BLOCK)
def compressed_tensors(checkpoint: Checkpoint) -> LayerResolver:
    """The scheme of the first target that matches all three projections of a layer's experts.

    Values: ``weights`` and ``input`` (quantization arguments with their defaults, ``input`` null
    for weights only) and ``format``.
    """
    schemes = _schemes_by_target(checkpoint)
    ignored = [_renamed(name, checkpoint) for name in given(checkpoint.block, "ignore", [])]

    def resolve(place: Place) -> Values | None:
        found = [
            _match(name, place.experts_class, schemes, ignored) for name in place.projection_names()
        ]
        if any(one != found[0] for one in found[1:]):
            raise CheckpointRefusedError(
                f"the projections of {place.name} are quantized in different ways", "quant_method"
            )
        return found[0]

    return resolve


def _schemes_by_target(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Schemes by target, in the file's order; "Linear" stands for routed experts as well."""
    block = checkpoint.block
    sparsity = block.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("targets"):
        raise CheckpointRefusedError("sparse compressed-tensors checkpoints are not supported")
    schemes: dict[str, dict[str, Any]] = {}
    for name, group in given(block, "config_groups", {}).items():
        where = f"config_groups.{name}."
        targets = given(group, "targets", where=where)
        if not targets or (len(targets) == 1 and targets[0].endswith("Attention")):
            continue
        weights = quantization_arguments(given(group, "weights", where=where))
        scheme = _scheme(group, weights, block.get("format"))
        for target in targets:
            schemes[_renamed(target, checkpoint)] = scheme
    if "Linear" in schemes:
        schemes.setdefault(ROUTED_EXPERTS, schemes["Linear"])
    return schemes


def _scheme(
    group: Mapping[str, Any], weights: Mapping[str, Any], block_format: str | None
) -> dict[str, Any]:
    if weights["actorder"] in ("group", "dynamic"):
        raise CheckpointRefusedError(
            f"weights ordered by activation (actorder {weights['actorder']!r}) are no longer "
            "supported by vLLM"
        )
    layout = group.get("format") or block_format
    activations = group.get("input_activations")
    if not activations and layout in FORMATS_WITH_ACTIVATIONS and weights["type"] != "float":
        raise CheckpointRefusedError(f"format {layout!r} without input_activations")
    arguments = quantization_arguments(activations) if activations else None
    return {"weights": weights, "input": arguments, "format": layout}


def quantization_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Quantization arguments with the format's defaults; the strategy follows from the group size.

    Raises CheckpointRefusedError for arguments that the format itself does not allow.
    """
    unknown = next((name for name in args if name not in QUANTIZATION_ARGUMENTS.fields), None)
    if unknown is not None:
        raise CheckpointRefusedError(
            unknown_name("quantization argument", unknown, QUANTIZATION_ARGUMENTS.fields)
        )
    group_size = args.get("group_size")
    strategy = args.get("strategy")
    if strategy is None:
        positive = isinstance(group_size, int) and group_size > 0
        strategy = "group" if positive else "tensor" if group_size is None else "channel"
    actorder = args.get("actorder")
    dynamic = args.get("dynamic", False)
    arguments = {
        "num_bits": args.get("num_bits", 8),
        "type": args.get("type", "int"),
        "symmetric": args.get("symmetric", True),
        "group_size": group_size,
        "strategy": strategy,
        "dynamic": bool(dynamic),
        "actorder": actorder,
        "scale_dtype": args.get("scale_dtype"),
        "block_structure": _block_structure(args.get("block_structure")),
    }
    grouped = arguments["strategy"] in ("group", "tensor_group")
    if arguments["strategy"] == "token" and not dynamic:
        raise CheckpointRefusedError("per-token quantization must be dynamic")
    if grouped != (isinstance(group_size, int) and group_size > 0):
        raise CheckpointRefusedError(
            f"strategy {arguments['strategy']!r} does not go with group_size {group_size}"
        )
    if actorder in ("group", "dynamic") and not grouped:
        raise CheckpointRefusedError(
            f"actorder {actorder!r} does not go with strategy {arguments['strategy']!r}"
        )
    if dynamic == "local" and arguments["strategy"] != "tensor_group":
        raise CheckpointRefusedError("dynamic 'local' goes with strategy 'tensor_group' only")
    if arguments["type"] == "float" and arguments["num_bits"] not in (4, 8):
        zeros = args.get("zp_dtype")
        if zeros is None:
            raise CheckpointRefusedError(
                f"float quantization with {arguments['num_bits']} bits; expected 4 or 8"
            )
    if (arguments["strategy"] == "block") != (arguments["block_structure"] is not None):
        raise CheckpointRefusedError("strategy 'block' and block_structure go together")
    if dynamic and arguments["strategy"] not in ("token", "tensor", "tensor_group", "group"):
        raise CheckpointRefusedError(f"strategy {arguments['strategy']!r} cannot be dynamic")
    return arguments


def _block_structure(given: str | list[int] | None) -> list[int] | None:
    """The rows and columns of a block, from a list of them or from "128x128"."""
    if given is None:
        return None
    if not isinstance(given, str):
        return given
    sizes = given.split("x")
    if len(sizes) != 2 or not all(size.isdecimal() for size in sizes):
        raise CheckpointRefusedError(f"block_structure must be two integers, not {shown(given)}")
    return [int(size) for size in sizes]


def _match(
    name: str, layer_class: str, schemes: Mapping[str, dict[str, Any]], ignored: list[str]
) -> dict[str, Any] | None:
    if any(matches_pattern(name, entry) for entry in ignored):
        return None
    for target, scheme in schemes.items():
        if matches_pattern(name, target):
            return scheme
    for target, scheme in schemes.items():
        if _names_class(target, layer_class):
            return scheme
    return None


def _names_class(target: str, layer_class: str) -> bool:
    if target.startswith("re:"):
        return matches_pattern(layer_class, target)
    return target.lower() in layer_class.lower()


def _renamed(name: str, checkpoint: Checkpoint) -> str:
    """Only module paths are renamed, not class names or regular expressions."""
    is_path = "." in name and not name.startswith("re:")
    return rename(name, checkpoint.renaming) if is_path else name
