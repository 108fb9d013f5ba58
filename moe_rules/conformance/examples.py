"""Holds examples against the rules: whether what they expect comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moe_rules.engine.because import because
from moe_rules.engine.decision import Decision
from moe_rules.files.problems import Problem
from moe_rules.language.examples import NONE, Example
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import Machine, MachineError, load_machine
from moe_rules.selectors.facts import layer_facts
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactError, FactValue, SwitchError
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.layer import (
    REQUIRED_FACTS,
    FusedMoEConfig,
    FusedMoEParallelConfig,
)
from moe_rules.vocabulary.record import Record


class Result(Record):
    """What came of one example. ``decision`` is None where its facts allow none."""

    example: Example
    decision: Decision | None
    problems: tuple[Problem, ...]


class Rules:
    """The packaged tables, or those of another folder, with overlays; platforms are read once."""

    def __init__(self, overlays: Sequence[Path] = (), packaged: Path | None = None) -> None:
        self.overlays = tuple(overlays)
        self.packaged = packaged
        self._platforms: dict[str, PlatformRules] = {}
        self._selectors: dict[tuple[Any, ...], Selector] = {}

    def platform(self, name: str) -> PlatformRules:
        """The rules of a platform. Raises RuleFileError."""
        if name not in self._platforms:
            rules = load_platform(name, self.overlays, packaged=self.packaged)
            self._platforms[name] = rules
        return self._platforms[name]

    def selector(self, machine: Machine) -> Selector:
        """The selector of a machine. Raises RuleFileError."""
        key = tuple(machine.facts().items())
        if key not in self._selectors:
            self._selectors[key] = Selector(self.platform(machine.device), machine.facts())
        return self._selectors[key]

    def run(self, example: Example) -> Result:
        """Decide, and compare with what is expected. Raises RuleFileError for wrong rules."""
        try:
            decision = self._decide(example)
        except MachineError as error:
            return _not_decided(example, "bad-machine", str(error), "machine")
        except SwitchError as error:
            return _not_decided(example, "unreadable-switch", str(error), "facts")
        except (FactError, TypeError, ValueError) as error:
            return _not_decided(example, "bad-facts", str(error), "facts")
        return Result(example, decision, tuple(_differences(example, decision)))

    def _decide(self, example: Example) -> Decision:
        by_group: dict[str, dict[str, Any]] = {fact.group: {} for fact in FACTS.values()}
        for name, value in example.facts.items():
            by_group[FACTS[name].group][name] = value
        machine = _machine_of(example, by_group["platform"], by_group["software"])
        layer = _layer_of(by_group["layer"], by_group["parallel"])
        facts: dict[str, FactValue] = {"weight_key": None, "activation_key": None}
        facts |= {**layer_facts(layer), **by_group["quantization"], **by_group["request"]}
        return self.selector(machine).decide(example.oracle, facts)


def _machine_of(
    example: Example, platform: Mapping[str, FactValue], software: Mapping[str, Any]
) -> Machine:
    """The machine that is named, with the facts that are given; else what they describe."""
    if example.machine is None:
        machine = Machine("stated", platform, software, str(example.at("facts")))
        return machine.with_preset(example.software) if example.software else machine
    machine = load_machine(example.machine, example.software)
    return replace(
        machine,
        platform={**machine.platform, **platform},
        software={**machine.software, **software},
    )


def _layer_of(layer: Mapping[str, Any], parallel: Mapping[str, Any]) -> FusedMoEConfig:
    missing = [name for name in REQUIRED_FACTS if name not in layer]
    if missing:
        raise FactError(f"facts do not give {', '.join(missing)}")
    return FusedMoEConfig(**layer, moe_parallel_config=FusedMoEParallelConfig(**parallel))


def _not_decided(example: Example, code: str, message: str, part: str) -> Result:
    problem = Problem(code, f"{example.name}: {message}", example.at(part))
    return Result(example, None, (problem,))


def _differences(example: Example, decision: Decision) -> Iterator[Problem]:
    expect = example.expect
    came = {
        "error": decision.result.error,
        "backend": decision.backend or NONE,
        "kernel": decision.kernel or NONE,
        "how": decision.how,
        "order": list(decision.order),
    }
    for name, actual in came.items():
        wanted = getattr(expect, name)
        if wanted == actual or (wanted is None and name != "error"):
            continue
        message = f"{example.name}: expected {_said(name, wanted)}, came {_said(name, actual)}"
        place = example.source.at((*example.path, "expect", name))
        yield Problem(f"other-{name}", f"{message}{_why(decision)}", place)
        if name == "error":
            return  # everything else differs for that


def _said(name: str, value: object) -> str:
    if name == "error":
        return f"error {value}" if value else "no error"
    return f"{name} {', '.join(value)}" if isinstance(value, list) else f"{name} {value}"


def _why(decision: Decision) -> str:
    if decision.failed:
        return f": {str(decision.error).splitlines()[0]}"
    text, place = because(decision)
    return f": {text} ({place.short})"
