"""Mistral's own configuration file, params.json, as the config.json that vLLM makes of it.

``rules/models/mistral.yaml`` has the names; source: ``transformers_utils/configs/mistral.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.models.conditions import Context, holds
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.tables import Tables, load_tables
from moe_rules.models.typed import Shape, anything, mapped, optional, read

PARAMS = "params.json"


PARTS = Shape(
    moe=optional(mapped(anything)),
    multimodal=optional(mapped(anything)),
    vision_encoder=optional(mapped(anything)),
    quantization=optional(mapped(anything)),
    llama_4_scaling=optional(mapped(anything)),
)
"""The parts of params.json that hold further fields."""


def config_of(
    params: Mapping[str, Any],
    beside: Mapping[str, Any] | None = None,
    *,
    tables: Tables | None = None,
    name: str = PARAMS,
) -> dict[str, Any]:
    """The configuration of a checkpoint in Mistral's format.

    ``beside`` is its config.json, if there is one, for what params.json does not give; ``tables``
    are the packaged ones if absent, ``name`` is what errors call the file. Raises
    CheckpointRefusedError where vLLM does not take the file.
    """
    read(PARTS, params, name)
    table = (tables or load_tables()).mistral
    config = {table["fields"].get(name, name): value for name, value in params.items()}
    config = {**table["defaults"], **config}
    quantization = _quantization(config.pop("quantization", None), table, name)
    case = _case(table["architectures"], config, table)
    found = {**(beside or {}), **_with_experts(config, case, name), **quantization}
    missing = [name for name in case.get("reads", ()) if name not in found]
    if missing:
        raise CheckpointRefusedError(
            f"vLLM's {case['architecture']} reads {', '.join(missing)}, which neither {name} "
            "nor a config.json beside it gives",
            "model",
        )
    outer = next((one for one in table["around"] if holds(one["when"], Context(params))), None)
    if outer is None:
        return found
    around = {"architectures": [outer["architecture"]], **outer["set"]}
    return {**around, "text_config": found, **quantization}


def _case(
    cases: list[Mapping[str, Any]], config: Mapping[str, Any], table: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What kind of language model it is."""
    latent = bool(config.get(table["latent_attention"])) and not config.get("moe")
    if latent:
        return {"architecture": "MistralForCausalLM"}
    context = Context({**config, "moe": config.get("moe") or None})
    case = next(one for one in cases if holds(one.get("when", {}), context))
    for refusal in case.get("refuse", ()):
        if holds(refusal["when"], context):
            raise CheckpointRefusedError(refusal["because"])
    return case


def _with_experts(config: dict[str, Any], case: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The configuration with the fields under ``moe`` where the model class looks for them."""
    named = {"architectures": [case["architecture"]]}
    if "moe" not in case:
        return {**config, **named}
    moe = config.pop("moe")
    missing = [f"moe.{name}" for name in case["required"] if moe.get(name) is None]
    if missing:
        raise CheckpointRefusedError(f"{name} does not give {', '.join(missing)}", "model")
    experts = {new: moe[old] for old, new in case["moe"].items() if old in moe}
    return {**config, **experts, **case["set"], **named}


def _quantization(
    given: Mapping[str, Any] | None, table: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """The quantization block, as a field; nothing for an unquantized checkpoint."""
    if not given:
        return {}
    for case in table["quantization"]:
        if holds(case.get("when", {}), Context(given)):
            if "refuse" in case:
                raise CheckpointRefusedError(f"{name}: quantization: {case['refuse']}")
            return {"quantization_config": dict(given) if case.get("keep") else case["block"]}
    return {}
