"""Deployments that can be: what cannot go together, what is usual, and what machines have.

Questions about all deployments are asked inside the region of those that are possible, which
``rules/worlds.yaml`` describes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from moe_rules.analysis.classes import Space
from moe_rules.analysis.conditions import Conditions, Facts
from moe_rules.analysis.diagram import Node
from moe_rules.analysis.questions import Missing, Questions
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import Problem, RuleFileError
from moe_rules.files.validate import validate
from moe_rules.files.yaml_source import YamlSource, read_yaml
from moe_rules.language.conditions import Condition
from moe_rules.language.files import RawCondition, RawValues, Table
from moe_rules.language.parse import Parser
from moe_rules.language.reading import vocabulary
from moe_rules.language.rules import Reason
from moe_rules.machines.machine import named_machines, software_preset
from moe_rules.vocabulary.fact_values import FactError, FactValue, did_you_mean, parse_value
from moe_rules.vocabulary.facts import FACTS, REQUEST_DEFAULTS

WORLDS = "worlds.yaml"


class ImpossibleError(ValueError):
    """No deployment has the facts that are asked about."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        entries = [e for e in packaged_worlds().impossible if e.when.holds(facts) is True]
        why = "; ".join(f"{one.reason.text} ({one.reason.location.short})" for one in entries)
        super().__init__(f"no deployment has these facts together{f': {why}' if why else ''}")


class ImpossibleEntry(Table):
    """What cannot go together."""

    when: RawCondition = Field(description="Facts that no deployment has together.")
    because: str = Field(description="Why not.")
    simulated: bool = Field(
        False, description="Recorded decisions have it all the same, where one probe was changed."
    )


class IrrelevantEntry(Table):
    """Facts that should not matter."""

    facts: list[str] = Field(description="By any of these alone, nothing should be decided.")
    when: RawCondition | None = Field(None, description="Where not; nowhere if absent.")
    because: str = Field(description="Why not.")


class WorldsFile(Table):
    """``rules/worlds.yaml``: what deployments cannot be, what they usually are, what is fixed."""

    impossible: list[ImpossibleEntry] = Field(description="What cannot go together.")
    irrelevant: list[IrrelevantEntry] = Field(
        default_factory=list, description="Facts that should not matter, for `moe-rules verify`."
    )
    usual: RawValues = Field(description="Values that facts usually have.")
    fixed: list[str] = Field(
        default=[],
        description="Facts, and groups of facts, that a user cannot change: moe-rules nearest "
        "changes them last.",
    )


@dataclass(frozen=True, slots=True)
class Impossible:
    """A condition under which there are no deployments, and why. See :class:`ImpossibleEntry`."""

    when: Condition
    reason: Reason
    simulated: bool


@dataclass(frozen=True, slots=True)
class Irrelevant:
    """Facts that should not matter under a condition, and why. See :class:`IrrelevantEntry`."""

    facts: tuple[str, ...]
    when: Condition
    reason: Reason


@dataclass(frozen=True)
class Worlds:
    """What ``worlds.yaml`` says."""

    impossible: tuple[Impossible, ...]
    irrelevant: tuple[Irrelevant, ...]
    usual: Mapping[str, FactValue]
    fixed: frozenset[str]
    """Facts that a user cannot change."""


def worlds_of(source: YamlSource) -> Worlds:
    """Read a file. Raises RuleFileError with everything that is wrong."""
    file = validate(WorldsFile, source)
    parser = Parser(source, FACTS, vocabulary().sets)
    entries = []
    for number, entry in enumerate(file.impossible):
        path = ("impossible", number)
        when = parser.condition(entry.when, (*path, "when"))
        reason = Reason(entry.because, source.at(path))
        entries.append(Impossible(when, reason, entry.simulated))
    irrelevant = []
    for number, other in enumerate(file.irrelevant):
        path = ("irrelevant", number)
        for i, name in enumerate(other.facts):
            if name not in FACTS:
                message = f"there is no fact {name!r}{did_you_mean(name, FACTS)}"
                parser.problem("unknown-fact", message, (*path, "facts", i))
        when = parser.condition(other.when, (*path, "when"))
        reason = Reason(other.because, source.at(path))
        irrelevant.append(Irrelevant(tuple(other.facts), when, reason))
    usual = {}
    problems = list(parser.problems)
    for name, raw in file.usual.items():
        try:
            usual[name] = _usual_value(name, raw)
        except FactError as error:
            problems.append(Problem("bad-value", str(error), source.key_at(("usual", name))))
    fixed: set[str] = set()
    for number, name in enumerate(file.fixed):
        members = {fact.name for fact in FACTS.values() if name in (fact.name, fact.group)}
        if not members:
            message = f"there is no fact or group {name!r}{did_you_mean(name, FACTS)}"
            problems.append(Problem("unknown-fact", message, source.at(("fixed", number))))
        fixed |= members
    if problems:
        raise RuleFileError(problems)
    return Worlds(tuple(entries), tuple(irrelevant), usual, frozenset(fixed))


def _usual_value(name: str, raw: Any) -> FactValue:
    if name not in FACTS:
        raise FactError(f"there is no fact {name!r}")
    return parse_value(FACTS[name], raw)


@functools.cache
def packaged_worlds() -> Worlds:
    """The worlds of the packaged rules."""
    return worlds_of(read_yaml(packaged_rules() / WORLDS))


def add_worlds(questions: Questions, worlds: Worlds) -> tuple[Impossible, ...]:
    """Ask also what tells whether a deployment is possible. Returns what matters of that.

    What the constants rule out by themselves, as what is of another kind of device, does not.
    """
    known = {n: v for n, v in questions.constants.items() if not isinstance(v, Missing)}
    left = [one for one in worlds.impossible if one.when.holds(known) is not False]
    relevant: list[Impossible] = []
    while True:
        asked = questions.facts()
        more = [one for one in left if not asked.isdisjoint(one.when.fact_names())]
        if not more:
            return tuple(relevant)
        for one in more:
            left.remove(one)
            questions.add_condition(one.when)
        relevant += more


def possible(space: Space, impossible: tuple[Impossible, ...]) -> Node:
    """Where deployments can be. What is open because of unknown facts can be."""
    conditions = Conditions(space)
    facts: Facts = {}
    diagrams = space.diagrams
    return diagrams.every(
        [diagrams.opposite(conditions.applies(one.when, facts)) for one in impossible]
    )


@functools.cache
def usual_values(device: str) -> Mapping[str, tuple[FactValue, ...]]:
    """Values of facts that occur on a kind of device, the most usual one first."""
    found: dict[str, dict[FactValue, None]] = {
        name: {value: None} for name, value in packaged_worlds().usual.items()
    }
    for name, value in {**REQUEST_DEFAULTS, **software_preset("full", device)}.items():
        found.setdefault(name, {})[value] = None
    for machine in named_machines().values():
        if machine.platform["device"] == device:
            for name, value in machine.platform.items():
                found.setdefault(name, {})[value] = None
    return {name: tuple(values) for name, values in found.items()}
