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
    # Of the three origins that the format knows, "random" is the one that nobody planned.
    return {**question_of(oracle, machine, facts, environ, "random", tags), "expect": dict(expect)}


def question_of(
    oracle: str,
    machine: Machine,
    facts: Mapping[str, FactValue],
    environ: Mapping[str, str],
    origin: str,
    tags: Mapping[str, Any],
) -> dict[str, Any]:
    """A case without what the reference came to. See :func:`case_of`."""
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
    key = hashlib.sha256(text.encode()).hexdigest()[:20]
    return {"id": key, "origin": origin, "tags": dict(tags), **inputs}


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


def platform_name(machine: Machine) -> str:
    """The name that cases give to a kind of machine: "cuda-sm90", "cpu-x86-amx"."""
    facts = machine.platform
    capability, words = (
        facts.get("compute_capability"),
        [_KINDS.get(machine.device, machine.device)],
    )
    if isinstance(capability, tuple):
        words.append("sm{}{}".format(*capability))
    words += [str(facts[name]) for name in ("gfx", "cpu_arch") if facts.get(name)]
    if facts.get("amx_tile"):
        words.append("amxfp8" if facts.get("amx_fp8") else "amx")
    words += ["zen"] if facts.get("zen") else []
    words += ["darwin"] if machine.device == "cpu" and facts.get("os") == "darwin" else []
    return "-".join(words)


def _platform(machine: Machine) -> dict[str, Any]:
    own: dict[str, Any] = {
        key: machine.platform[fact]
        for fact, key in _PLATFORM_KEYS.items()
        if machine.platform.get(fact) is not None
        and (fact != "os" or machine.device == "cpu")
        and DEVICE_OF.get(fact, machine.device) == machine.device
    }
    if isinstance(own.get("capability"), tuple):
        own["capability"] = list(own["capability"])
    kind = _KINDS.get(machine.device, machine.device)
    return {"name": platform_name(machine), "kind": kind, **own}


def _options(facts: Mapping[str, FactValue]) -> dict[str, Any]:
    options: dict[str, Any] = {name: facts[name] for name in _OPTIONS if name in facts}
    if facts.get("checkpoint_format") is not None:
        said = {name: facts[name] for name in _CHECKPOINT if facts.get(name) is not None}
        options["quant_config"] = {"kind": facts["checkpoint_format"], **said}
    return options


def _json(value: FactValue) -> Any:
    return value.to_dict() if isinstance(value, QuantKey) else plain(value)
