"""AutoRound (INC) checkpoints: a data type and packing for all layers, with overrides by name.

Source: vLLM's ``inc/inc.py`` and ``inc/config_parser.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.models.blocks import AUTO_ROUND_BLOCK, shaped
from moe_rules.models.errors import CheckpointRefusedError, PatternError
from moe_rules.models.names import rename, rename_all
from moe_rules.models.patterns import occurs
from moe_rules.models.place import Checkpoint, LayerResolver, Place, Values

PACKING_FORMATS = {
    "int": ("auto_round:auto_gptq", "auto_round:auto_awq"),
    "fp": ("auto_round:fp8",),
    "mx_fp": ("auto_round:llm_compressor",),
}
"""Families of data types, and how each may be packed; the first is the default."""
BACKENDS = ("auto", "gptq", "gptq:marlin", "awq", "awq:marlin", "marlin")
MX_GROUP_SIZE = 32
MXFP8_ACTIVATIONS = {
    "act_bits": 8,
    "act_data_type": "mx_fp",
    "act_group_size": MX_GROUP_SIZE,
    "act_sym": True,
    "act_dynamic": True,
}
"""What a checkpoint of MXFP8 weights must say of activations, if it says anything."""
REGEX_CHARACTERS = frozenset("*+?^$()[]{}|\\")
UNQUANTIZED_BITS = 16


@shaped(AUTO_ROUND_BLOCK)
def auto_round(checkpoint: Checkpoint) -> LayerResolver:
    """The layer's bits, group size and symmetry, from its own entry or the checkpoint's.

    Values: those three, ``data_type`` ("int", "fp", "mx_fp..."), ``zero_point`` (not symmetric)
    and ``packing`` ("gptq", "awq" or null).
    """
    block = checkpoint.block
    for name in ("bits", "group_size"):
        if block.get(name) is None:
            raise CheckpointRefusedError(f"the quantization block does not give {name!r}")
    own = {
        rename(name, checkpoint.renaming): entry
        for name, entry in (block.get("extra_config") or {}).items()
    }
    data_type = str(block.get("data_type", "int"))
    data_type = "fp" if data_type == "fp8" else data_type
    packing_format, backend = _refuse_unsupported(block, data_type)
    shared = {
        "bits": block["bits"],
        "group_size": block["group_size"],
        "sym": block.get("sym", True),
    }
    fixed = {
        "data_type": data_type,
        "packing": _packing(f"{packing_format} {backend}"),
    }
    blocks = _quantized_blocks(checkpoint)

    def resolve(place: Place) -> Values | None:
        if _left_out(place.name, own):
            return None
        inside = blocks is None or any(place.name.startswith(name) for name in blocks)
        default = shared if inside else {"bits": UNQUANTIZED_BITS, "group_size": -1, "sym": True}
        found = {**default, **_entry_of(place.name, own)}
        if found["bits"] >= UNQUANTIZED_BITS:
            return None
        return {
            **fixed,
            "bits": found["bits"],
            "group_size": found["group_size"],
            "symmetric": found["sym"] == 1,  # compared as such, and else taken by its truth
            "zero_point": not found["sym"],
            "desc_act": False,
        }

    return resolve


def _refuse_unsupported(block: Mapping[str, Any], data_type: str) -> tuple[str, str]:
    """The packing format and backend. Refuses what vLLM's configuration of the method refuses.

    It holds the settings against a data type that it knows by its whole name: of others, such as
    "mx_fp4", it takes any packing, backend and group size.
    """
    family = "mx_fp" if "mx_fp" in data_type else data_type
    formats = PACKING_FORMATS.get(family)
    if formats is None:
        raise CheckpointRefusedError(f"AutoRound's data type {data_type!r} is not supported")
    held = data_type in PACKING_FORMATS
    bits, group_size = block["bits"], block["group_size"]
    if bits not in ((4, 8) if data_type == "mx_fp" else range(2, 9)):
        raise CheckpointRefusedError(f"AutoRound's {data_type} with {bits} bits is not supported")
    packing_format = block.get("packing_format")
    packing_format = formats[0] if packing_format is None else packing_format
    if not held:
        formats = tuple(one for family in PACKING_FORMATS.values() for one in family)
    if packing_format not in formats:
        raise CheckpointRefusedError(
            f"AutoRound's {data_type} must be packed as {' or '.join(formats)}, "
            f"not {packing_format}"
        )
    backend = block.get("backend", block.get("vllm_backend", "auto"))
    if backend not in (("auto",) if data_type == "mx_fp" else BACKENDS):
        raise CheckpointRefusedError(f"AutoRound's {data_type} with backend {backend!r}")
    if data_type == "mx_fp" and not (group_size == MX_GROUP_SIZE and block.get("sym", True)):
        raise CheckpointRefusedError("AutoRound's MXFP must be symmetric, in groups of 32")
    if family == "mx_fp" and bits == 8:
        for name, expected in MXFP8_ACTIVATIONS.items():
            if block.get(name, expected) != expected:
                raise CheckpointRefusedError(
                    f"AutoRound's MXFP8 needs {name} {expected!r}, not {block[name]!r}"
                )
    return packing_format, backend


def _packing(named: str) -> str | None:
    return "gptq" if "gptq" in named else "awq" if "awq" in named else None


def _quantized_blocks(checkpoint: Checkpoint) -> list[str] | None:
    block = checkpoint.block
    names = block.get("block_name_to_quantize", block.get("to_quant_block_names"))
    if isinstance(names, str):
        names = names.split(",")
    return rename_all(names, checkpoint.renaming) if names else None


def _left_out(name: str, own: Mapping[str, Any]) -> bool:
    """An entry of the layer's own says 16 bits, or does not say how many."""
    entries = [own[key] for key in (name, f"model.{name}") if key in own]
    return any(entry.get("bits", UNQUANTIZED_BITS) >= UNQUANTIZED_BITS for entry in entries)


def _entry_of(name: str, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """A layer's own settings: by its name, by the end of it, or by a regular expression."""
    if not own:
        return {}
    if name in own:
        return dict(own[name])
    for key, entry in own.items():
        if name.endswith(f".{key}"):
            return dict(entry)
    for key, entry in own.items():
        if REGEX_CHARACTERS.intersection(key) and _searches(key, name):
            return dict(entry)
    return {}


def _searches(pattern: str, name: str) -> bool:
    try:
        return occurs(pattern, name)
    except PatternError:
        return False
