"""A Hugging Face configuration as the model classes see it.

config.json holds only what differs from the defaults of its configuration class, some of it under
another name, and a multimodal model keeps its language model's part in a nested mapping. The
``config_classes`` table says what the classes add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_rules.models.blocks import HEAD, TAKEN_BY_TRUTH, given
from moe_rules.models.conditions import Context, descend
from moe_rules.models.errors import CheckpointRefusedError, ConfigValueError
from moe_rules.models.typed import (
    Shape,
    anything,
    below,
    listed,
    mapped,
    optional,
    read,
    shown,
    text,
)
from moe_rules.vocabulary.layer import dtype_name
from moe_rules.vocabulary.record import Record


class FileNames(Record):
    """What messages call the files of a checkpoint."""

    config: str = "config.json"
    quantization: str = "hf_quant_config.json"


USUAL_NAMES = FileNames()

IN_WORDS = {
    "int": "an integer",
    "float": "a float for transformers' class (10.0, not 10)",
    "bool": "true or false",
    "str": "text",
}
"""What types are called in messages."""


FIELDS = Shape(
    architectures=optional(listed(text)),
    model_type=optional(text),
    dtype=optional(text),
    torch_dtype=optional(text),
    text_config=optional(mapped(anything)),
    llm_config=optional(mapped(anything)),
    vision_config=optional(mapped(anything)),
    quantization_config=optional(mapped(anything)),
    compression_config=optional(mapped(anything)),
)
"""What is read of a configuration whatever its architecture."""


class HfConfig:
    """One level of a configuration: its own fields, then its class's aliases and defaults."""

    __slots__ = ("_names", "aliases", "defaults", "fields", "model_type", "place", "types")

    def __init__(
        self,
        fields: Mapping[str, Any],
        classes: Mapping[str, Any],
        model_type: str | None = None,
        place: str = USUAL_NAMES.config,
    ) -> None:
        read(FIELDS, fields, place)
        self.fields = fields
        self.place = place
        self.model_type: str | None = fields.get("model_type") or model_type
        described = classes.get(self.model_type or "", {})
        self.aliases: Mapping[str, str] = described.get("aliases", {})
        self.defaults: Mapping[str, Any] = described.get("defaults", {})
        self.types: Mapping[str, Sequence[str]] = described.get("types", {})
        self._names: dict[str, str | None] = {}

    def get(self, name: str, absent: Any = None) -> Any:
        """The field's value, by whichever of its names the file uses, else the class's default.

        ``absent`` if neither has the field.
        """
        if name == "model_type":
            return self.model_type
        used = self._used(name)
        if used is not None:
            return self.fields[used]
        return self.defaults.get(self.aliases.get(name, name), absent)

    def refuse_other_types(self) -> None:
        """Raise ConfigValueError for a field that the class takes as another type only."""
        for kind, names in self.types.items():
            for name in names:
                if name in self.fields and type(self.fields[name]).__name__ != kind:
                    seen = shown(self.fields[name])
                    raise ConfigValueError(self.where(name), IN_WORDS[kind], seen)

    def where(self, path: str) -> str:
        """The place of a field, or of what is inside it, under the name that the file uses."""
        name, dot, inside = path.partition(".")
        return below(self.place, f"{self._used(name) or name}{dot}{inside}")

    def _used(self, name: str) -> str | None:
        """By which of its names the file has a field."""
        if name not in self._names:
            self._names[name] = self._find(name)
        return self._names[name]

    def _find(self, name: str) -> str | None:
        canonical = self.aliases.get(name, name)
        names = (name, canonical, *(a for a, c in self.aliases.items() if c == canonical))
        return next((one for one in names if one in self.fields), None)


def text_config(outer: HfConfig, classes: Mapping[str, Any]) -> HfConfig:
    """The language model's configuration inside another (all of it, if nothing is nested)."""
    fields = outer.fields
    text = classes.get(outer.model_type or "", {}).get("text")
    if text is not None:
        name, nested = text["field"], descend(fields, text["field"])
        place = below(outer.place, name)
        if nested and text.get("always"):
            nested = {**nested, "model_type": text["class"]}
        return HfConfig({} if nested is None else nested, classes, text.get("class"), place)
    for name in ("text_config", "llm_config"):
        if fields.get(name):
            return HfConfig(fields[name], classes, place=below(outer.place, name))
    return outer


def file_of(context: Context) -> str:
    """What the file is called whose configuration a context holds."""
    return str(context.groups["config"].place)


def brings_its_class(fields: Mapping[str, Any], classes: Mapping[str, Any]) -> bool:
    """Whether the checkpoint has the code of its configuration class, which vLLM may trust.

    A class of vLLM's own comes before it, one of transformers' does not.
    """
    remote = fields.get("auto_map")
    named = isinstance(remote, Mapping) and "AutoConfig" in remote
    return named and not classes.get(fields.get("model_type") or "", {}).get("of_vllm", False)


def activation_dtype(
    fields: Mapping[str, Any], text: HfConfig, machine: Mapping[str, Any], requested: str = "auto"
) -> str:
    """The dtype of the activations: what the file declares, as far as the device has it.

    A file that declares fp32, or nothing, gets the device's preferred dtype.
    """
    if requested != "auto":
        return dtype_name(requested)
    declared = None
    for level in (fields, text.fields, fields.get("vision_config") or {}):
        declared = declared or level.get("dtype") or level.get("torch_dtype")
    try:
        declared = dtype_name(declared or "fp32")
    except ValueError as error:
        raise CheckpointRefusedError(str(error)) from None
    supported = _dtypes_of(machine)
    return declared if declared != "fp32" and declared in supported else supported[0]


def _dtypes_of(machine: Mapping[str, Any]) -> tuple[str, ...]:
    """The activation dtypes of a device, the preferred one first."""
    capability = machine.get("compute_capability")
    if machine.get("device") == "cuda" and capability is not None and capability < (8, 0):
        return ("fp16", "fp32")
    return ("bf16", "fp16", "fp32")


def quantization_block(
    fields: Mapping[str, Any],
    hf_quant_config: Mapping[str, Any] | None,
    names: FileNames = USUAL_NAMES,
) -> tuple[str, dict[str, Any]] | None:
    """The checkpoint's quantization from wherever it is declared: its place, and what it says.

    In this order: ``quantization_config``; ``hf_quant_config.json``; ``compression_config``; the
    same two of ``text_config``, of whose ``compression_config`` vLLM reads the method alone: not
    enough for compressed-tensors. The method is spelled out: a ModelOpt block in its own layout
    (``producer`` and ``quantization``) need not name one; its algorithm does. The algorithms of
    single layers that config.json leaves out are read from hf_quant_config.json.
    """
    text = fields.get("text_config") or {}
    inner = below(names.config, "text_config")
    declared = [
        (below(names.config, "quantization_config"), fields.get("quantization_config")),
        (names.quantization, hf_quant_config),
        (below(names.config, "compression_config"), fields.get("compression_config")),
        (below(inner, "quantization_config"), text.get("quantization_config")),
        (below(inner, "compression_config"), text.get("compression_config")),
    ]
    place, block = next(((p, b) for p, b in declared if b is not None), ("", None))
    if block is None:
        return None
    read(HEAD, block, place)
    method = _method(block)
    if method == "compressed-tensors" and place == below(inner, "compression_config"):
        raise CheckpointRefusedError(
            f"{place} is not where vLLM reads a block of compressed-tensors; it does at "
            f"{below(names.config, 'compression_config')}"
        )
    if _leaves_out_layers(method, block):
        place, block = names.quantization, _by_layer(hf_quant_config, place, names)
    truths = {name: bool(block[name]) for name in TAKEN_BY_TRUTH if name in block}
    return place, {**_upper_algorithm(block), **truths, "quant_method": method}


def _leaves_out_layers(method: str, block: Mapping[str, Any]) -> bool:
    """Whether a ModelOpt block says that algorithms differ, and not on its top level how."""
    inner = block if block.get("quantization") is None else block["quantization"]
    mixed = str(inner.get("quant_algo") or "").upper() == "MIXED_PRECISION"
    return method.startswith("modelopt") and mixed and "quantized_layers" not in block


def _by_layer(
    hf_quant_config: Mapping[str, Any] | None, place: str, names: FileNames
) -> Mapping[str, Any]:
    """hf_quant_config.json, read for what the block at a place leaves out."""
    if hf_quant_config is None:
        raise CheckpointRefusedError(
            f"{place} is MIXED_PRECISION without quantized_layers, and there is no "
            f"{USUAL_NAMES.quantization} beside it"
        )
    read(HEAD, hf_quant_config, names.quantization)
    producer = hf_quant_config.get("producer")
    if not isinstance(producer, Mapping) or producer.get("name") != "modelopt":
        raise CheckpointRefusedError(
            f"{names.quantization}: producer.name must be modelopt, where {place} has no "
            "quantized_layers"
        )
    inner = hf_quant_config.get("quantization")
    if not (hf_quant_config if inner is None else inner).get("quantized_layers"):
        raise CheckpointRefusedError(
            f"{place} is MIXED_PRECISION without quantized_layers, and {names.quantization} has "
            "none either"
        )
    return hf_quant_config


def _upper_algorithm(block: Mapping[str, Any]) -> dict[str, Any]:
    """The block with ModelOpt's algorithm in upper case, as vLLM compares it."""
    upper = dict(block)
    if isinstance(block.get("quant_algo"), str):
        upper["quant_algo"] = block["quant_algo"].upper()
    if isinstance(block.get("quantization"), Mapping):
        upper["quantization"] = _upper_algorithm(block["quantization"])
    return upper


def _method(block: Mapping[str, Any]) -> str:
    inner = block.get("quantization")
    if isinstance(inner, Mapping):
        producer = block.get("producer")
        named = isinstance(producer, Mapping) and producer.get("name") == "modelopt"
        if (named or "modelopt_quant_config" in inner) and inner.get("quant_algo") is not None:
            return _modelopt_method(str(inner["quant_algo"]).upper())
    method: str = given(block, "quant_method", "")
    return method.lower().replace("compressed_tensors", "compressed-tensors")


def _modelopt_method(algorithm: str) -> str:
    methods = {
        "FP8": "modelopt",
        "FP8_PER_CHANNEL_PER_TOKEN": "modelopt",
        "FP8_PB_WO": "modelopt",
        "NVFP4": "modelopt_fp4",
        "MIXED_PRECISION": "modelopt_mixed",
    }
    if algorithm not in methods:
        raise CheckpointRefusedError(f"unknown ModelOpt quant_algo {algorithm!r}")
    return methods[algorithm]
