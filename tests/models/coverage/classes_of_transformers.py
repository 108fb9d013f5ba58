"""Writes transformers_moe.json: the MoE configuration classes of the installed transformers.

    python classes_of_transformers.py

A configuration class is one of a MoE model if its defaults have a field whose name says so. For
each ``model_type`` the file has the class, its version, and the architectures that transformers
builds from it, but for parts of a model (``*Model``) and models with another head.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

OTHER_HEADS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "Backbone",
)


def fields(value: Any) -> Iterator[str]:
    """The names of all fields, those of nested configurations too."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name).lower()
            yield from fields(inner)


def architectures() -> dict[str, set[str]]:
    """The architectures of every ``model_type``."""
    found: dict[str, set[str]] = {}
    for name, mapping in vars(modeling_auto).items():
        if name.startswith("MODEL") and name.endswith("MAPPING_NAMES"):
            for model_type, built in mapping.items():
                names = [built] if isinstance(built, str) else built
                found.setdefault(model_type, set()).update(names)
    return found


def moe_classes() -> dict[str, dict[str, Any]]:
    """The classes by ``model_type``."""
    built = architectures()
    found = {}
    for model_type in CONFIG_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[model_type]()
        except Exception:
            continue
        if any("expert" in name or "moe" in name for name in fields(config.to_dict())):
            names = sorted(built.get(model_type, ()))
            found[model_type] = {
                "class": type(config).__name__,
                "architectures": [one for one in names if not one.endswith(OTHER_HEADS)],
            }
    return found


if __name__ == "__main__":
    data = {"transformers": transformers.__version__, "classes": moe_classes()}
    path = Path(__file__).with_name("transformers_moe.json")
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
