"""Writes recorded cases: the inverse of :mod:`moe_rules.conformance.cases`."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_rules.conformance.cases import DEVICES
from moe_rules.machines.machine import DEVICE_OF, Machine
from moe_rules.vocabulary.fact_values import FactValue, plain
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import QuantKey

_KINDS = {device: kind for kind, device in DEVICES.items()}
_PLATFORM_KEYS = {
    "device_name": "device",
    "compute_capability": "capability",
    "gfx": "gcn_arch",
    "cpu_arch": "arch",
    "os": "os",
    "zen": "zen",
    "amx_tile": "amx_tile",
    "amx_fp8": "amx_fp8",
}
_RUNTIME_KEYS = {
    "model_type": "model_type",
    "moe_activation_override": "moe_activation_override",
    "enable_dbo": "enable_dbo",
    "engine_enable_eplb": "enable_eplb",
    "weight_transfer": "weight_transfer",
}
_CHECKPOINT = (
    *("num_bits", "group_size", "symmetric", "strategy", "actorder", "zero_point", "desc_act"),
)
_KEYS = ("weight_key", "activation_key")
_OPTIONS = tuple(
    fact.name
    for fact in FACTS.values()
    if fact.group == "quantization" and fact.name not in (*_KEYS, *_CHECKPOINT, "checkpoint_format")
)
_PARALLEL = tuple(field.name for field in dataclasses.fields(FusedMoEParallelConfig))
_LAYER = tuple(
    field.name
    for field in dataclasses.fields(FusedMoEConfig)
    if field.name != "moe_parallel_config"
)


def case_of(
    oracle: str,
    machine: Machine,
    facts: Mapping[str, FactValue],
    environ: Mapping[str, str],
    expect: Mapping[str, Any],
    tags: Mapping[str, Any],
) -> dict[str, Any]:
    """One case: what was asked of ``oracle``, and in ``expect`` what the reference came to.

    ``facts`` are those of a layer and its engine, ``environ`` has the switches as they are set.
    ``expect`` is :func:`selected` or :func:`refused`.
    """
    inputs: dict[str, Any] = {
        "oracle": oracle,
        "platform": _platform(machine),
        "software": dict(machine.software),
        "env": {n: environ[n] for n in FACTS if n.startswith("VLLM_") and n in environ},
        "runtime": {key: _json(facts[n]) for n, key in _RUNTIME_KEYS.items() if n in facts},
        "moe": {
            **{name: facts[name] for name in _LAYER},
            "parallel": {name: facts[name] for name in _PARALLEL},
        },
        "weight": _json(facts["weight_key"]),
        "activation": _json(facts["activation_key"]),
        "options": _options(facts),
    }
    text = json.dumps(inputs, sort_keys=True)
    return {
        "id": hashlib.sha256(text.encode()).hexdigest()[:20],
        "origin": "random",  # of the three that the format knows, the one nobody planned
        "tags": dict(tags),
        **inputs,
        "expect": dict(expect),
    }


def selected(backend: str, backend_value: object, kernel: str | None) -> dict[str, Any]:
    """What the reference came to where it selected: names, and the value of its member."""
    answer = {"backend": backend, "backend_value": backend_value, "kernel": kernel}
    return {"outcome": "selected", **answer, **_UNSEEN}


def refused(error: Exception) -> dict[str, Any]:
    """What the reference came to where it raised."""
    answer = {"error_type": type(error).__name__, "error_message": str(error)}
    return {"outcome": "error", **answer, **_UNSEEN}


_UNSEEN: dict[str, Any] = {
    "priority": None,
    "priority_initial": None,
    "requested": None,
    "tried": [],
    "not_reached": [],
}
"""What only a look inside the reference tells."""


def append_case(path: Path, case: Mapping[str, Any]) -> None:
    """Add one line to a ``*.jsonl.gz`` file, which other processes may add to as well."""
    line = json.dumps(case, separators=(",", ":")) + "\n"
    with path.open("ab") as file:  # one write per member: appended whole
        file.write(gzip.compress(line.encode()))


def _platform(machine: Machine) -> dict[str, Any]:
    kind = _KINDS.get(machine.device, machine.device)
    own: dict[str, Any] = {
        key: machine.platform[fact]
        for fact, key in _PLATFORM_KEYS.items()
        if machine.platform.get(fact) is not None
        and (fact != "os" or machine.device == "cpu")
        and DEVICE_OF.get(fact, machine.device) == machine.device
    }
    capability = own.get("capability")
    if isinstance(capability, tuple):
        own["capability"] = list(capability)
        detail = "sm{}{}".format(*capability)
    else:
        detail = str(own.get("gcn_arch") or own.get("arch") or "")
    return {"name": "-".join(filter(None, (kind, detail))), "kind": kind, **own}


def _options(facts: Mapping[str, FactValue]) -> dict[str, Any]:
    options: dict[str, Any] = {name: facts[name] for name in _OPTIONS if name in facts}
    if facts.get("checkpoint_format") is not None:
        said = {name: facts[name] for name in _CHECKPOINT if facts.get(name) is not None}
        options["quant_config"] = {"kind": facts["checkpoint_format"], **said}
    return options


def _json(value: FactValue) -> Any:
    return value.to_dict() if isinstance(value, QuantKey) else plain(value)
