"""Deployments that show something, as the command that explains what is decided for them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from moe_rules.analysis.worlds import packaged_worlds, usual_values
from moe_rules.machines.machine import Machine, named_machines
from moe_rules.selectors.facts import layer_facts
from moe_rules.vocabulary.fact_values import FactValue, in_words, plain
from moe_rules.vocabulary.facts import REQUEST_DEFAULTS
from moe_rules.vocabulary.layer import REQUIRED_FACTS, FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey


def explain_command(
    platform: str,
    oracle: str,
    witness: Mapping[str, FactValue],
    rules: Sequence[str] = (),
    machine: Machine | None = None,
) -> str:
    """The command that shows what happens to a deployment; ``rules`` are its options for rules.

    ``machine`` is the one it is asked of, if one was; a command can only name a named one.
    """
    machine = _to_be_named(platform, witness, machine)
    words = ["moe-rules", "explain", "--oracle", oracle, "--machine", machine.name, *rules]
    for name, value in stated_facts(platform, witness, machine).items():
        words += ["--set", f"{name}={_stated(value)}"]
    return shlex.join(words)


def stated_facts(
    platform: str, witness: Mapping[str, FactValue], machine: Machine | None = None
) -> dict[str, FactValue]:
    """The facts that the command has to state: the layer's sizes, and what is not so anyway."""
    machine = _to_be_named(platform, witness, machine)
    usual = packaged_worlds().usual
    layer = {name: usual[name] for name in REQUIRED_FACTS}
    known = {**_said_without_words(layer), **machine.facts()}
    return {
        name: value
        for name, value in {**layer, **witness}.items()
        if name in layer or name not in known or known[name] != value
    }


def unusual_facts(
    platform: str, witness: Mapping[str, FactValue], machine: Machine | None = None
) -> dict[str, FactValue]:
    """Those of the stated facts that usually have another value."""
    usual = usual_values(platform)
    return {
        name: value
        for name, value in stated_facts(platform, witness, machine).items()
        if name not in usual or usual[name][0] != value
    }


def _said_without_words(layer: Mapping[str, Any]) -> dict[str, FactValue]:
    """The facts that ``explain`` has where nothing is stated but a layer's sizes."""
    facts = layer_facts(FusedMoEConfig(**layer))
    return {**facts, **REQUEST_DEFAULTS, "weight_key": None, "activation_key": None}


def _to_be_named(
    platform: str, witness: Mapping[str, FactValue], machine: Machine | None
) -> Machine:
    if machine is not None:
        named = named_machines().get(machine.name)
        if named is not None and named.machine() == machine:
            return machine
    return machine_like(platform, witness)


def machine_like(platform: str, witness: Mapping[str, FactValue]) -> Machine:
    """The named machine of a platform (each has one) with the most facts of a deployment."""
    machines = [m.machine() for m in named_machines().values()]
    alike = [machine for machine in machines if machine.device == platform]

    def shared(machine: Machine) -> int:
        facts = machine.facts()
        return sum(facts.get(name) == value for name, value in witness.items())

    return max(alike, key=shared)


def _stated(value: FactValue) -> str:
    if isinstance(value, QuantKey) and value.name is None:
        return json.dumps(value.to_dict())
    return in_words(plain(value))
