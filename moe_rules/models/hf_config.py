"""A Hugging Face configuration as the model classes see it.

config.json holds only what differs from the defaults of its configuration class, some of it under
another name, and a multimodal model keeps its language model's part in a nested mapping. The
``config_classes`` table says what the classes add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.models.conditions import descend
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.vocabulary.layer import dtype_name


class HfConfig:
    """One level of a configuration: its own fields, then its class's aliases and defaults."""

    __slots__ = ("aliases", "defaults", "fields", "model_type")

    def __init__(
        self, fields: Mapping[str, Any], classes: Mapping[str, Any], model_type: str | None = None
    ) -> None:
        self.fields = fields
        self.model_type: str | None = fields.get("model_type") or model_type
        described = classes.get(self.model_type or "", {})
        self.aliases: Mapping[str, str] = described.get("aliases", {})
        self.defaults: Mapping[str, Any] = described.get("defaults", {})

    def get(self, name: str) -> Any:
        """The field's value, by whichever of its names the file uses, else the class's default."""
        if name == "model_type":
            return self.model_type
        canonical = self.aliases.get(name, name)
        for one in (name, canonical, *(a for a, c in self.aliases.items() if c == canonical)):
            if one in self.fields:
                return self.fields[one]
        return self.defaults.get(canonical)


def text_config(fields: Mapping[str, Any], classes: Mapping[str, Any]) -> HfConfig:
    """The language model's configuration inside ``fields`` (all of it, if nothing is nested)."""
    model_type = fields.get("model_type")
    text = classes.get(model_type or "", {}).get("text")
    if text is not None:
        nested = descend(fields, text["field"])
        return HfConfig(nested or {}, classes, text.get("class"))
    nested = fields.get("text_config") or fields.get("llm_config")
    if isinstance(nested, Mapping):
        return HfConfig(nested, classes)
    return HfConfig(fields, classes)


def activation_dtype(
    fields: Mapping[str, Any], text: HfConfig, machine: Mapping[str, Any], requested: str = "auto"
) -> str:
    """The dtype of the activations: what the file declares, as far as the device has it.

    A file that declares fp32, or nothing, gets the device's preferred dtype.
    """
    if requested != "auto":
        return dtype_name(requested)
    declared = None
    vision = fields.get("vision_config")
    for level in (fields, text.fields, vision if isinstance(vision, Mapping) else {}):
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
    fields: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The checkpoint's quantization, from wherever it is declared, with its method spelled out.

    In this order: ``quantization_config``; ``hf_quant_config.json``; ``compression_config``; the
    same two of ``text_config``. A ModelOpt block in its own layout (``producer`` and
    ``quantization``) need not name a method; its algorithm does.
    """
    text = fields.get("text_config")
    block = fields.get("quantization_config") or hf_quant_config or fields.get("compression_config")
    if block is None and isinstance(text, Mapping):
        block = text.get("quantization_config") or text.get("compression_config")
    if block is None:
        return None
    if not isinstance(block, Mapping):
        raise CheckpointRefusedError(
            f"the quantization block must be a mapping, not {type(block).__name__}"
        )
    found = dict(block)
    method = str(found.get("quant_method") or "").lower()
    inner = found.get("quantization")
    if isinstance(inner, Mapping):
        producer = found.get("producer")
        named = isinstance(producer, Mapping) and producer.get("name") == "modelopt"
        if (named or "modelopt_quant_config" in inner) and inner.get("quant_algo") is not None:
            method = _modelopt_method(str(inner["quant_algo"]).upper())
    found["quant_method"] = method.replace("compressed_tensors", "compressed-tensors")
    return found


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
