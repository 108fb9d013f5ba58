"""The comparison that ``diff`` makes: of which deployments, and what differs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from moe_rules.analysis.difference import Difference, differences
from moe_rules.analysis.worlds import ImpossibleError
from moe_rules.cli.errors import UserError
from moe_rules.cli.narrowing import machines_of, platforms_of
from moe_rules.cli.readings import Reading, Subject, readings
from moe_rules.cli.rule_sets import RuleSet
from moe_rules.cli.stated import Stated
from moe_rules.cli.witness import unusual_facts
from moe_rules.language.rules import PlatformRules
from moe_rules.machines.machine import Machine, foreign_facts
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.layer import REQUIRED_FACTS
from moe_rules.vocabulary.record import Record

NARROWING = ("platform", "machine", "oracle", "model", "set")
"""The options that may leave no deployment."""


class Scope(Record):
    """Deployments that are compared: of one oracle (None: of all), with some facts fixed."""

    platform: str
    machine: Machine | None
    oracle: str | None
    facts: Mapping[str, FactValue]
    subject: Subject | None


class Found(Record):
    """A region, and the machines or layers for which it was found, where these were asked for.

    ``besides`` is what its witness has of unusual facts that no condition of the region speaks of,
    ``machine`` the first of those machines.
    """

    difference: Difference
    subjects: tuple[Subject, ...]
    besides: Mapping[str, FactValue] = {}
    machine: Machine | None = None

    @property
    def where(self) -> str:
        """The oracle and the platform."""
        return f"{self.difference.oracle} on {self.difference.platform}"


class Comparison(Record):
    """What was compared, and every region in which it differs, the largest first.

    ``compared`` are platforms and oracles. ``readings`` are the layers of a model that the two read
    otherwise, which are in no region.
    """

    before: RuleSet
    after: RuleSet
    compared: tuple[tuple[str, str], ...]
    platforms: tuple[str, ...]
    subjects: tuple[Subject, ...]
    differences: tuple[Found, ...]
    readings: tuple[Reading, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not self.readings


class NothingComparedError(UserError):
    """No deployment is what the options say."""

    def __init__(self, args: argparse.Namespace) -> None:
        given = [f"--{name}" for name in NARROWING if getattr(args, name)]
        super().__init__(f"nothing is compared: no deployment is what {' and '.join(given)} say")


def compare(args: argparse.Namespace, before: RuleSet, after: RuleSet) -> Comparison:
    """Compare what the options ask.

    Raises UserError (NothingComparedError where no deployment is asked about), or an error of the
    libraries.
    """
    read: list[Reading] = []
    scopes = list(_scopes(args, before, after, read))
    platforms = tuple(dict.fromkeys(scope.platform for scope in scopes))
    rules = {name: (before.load(name), after.load(name)) for name in platforms}
    compared: dict[tuple[str, str], None] = {}
    found: dict[str, tuple[Difference, Scope, list[Subject | None]]] = {}
    for scope in scopes:
        one, other = rules[scope.platform]
        oracles = dict.fromkeys((*one.oracles, *other.oracles))
        wanted = [scope.oracle] if scope.oracle is not None else args.oracle or oracles
        for oracle in wanted:
            if args.oracle and oracle not in args.oracle:
                continue
            compared[scope.platform, oracle] = None
            if one.fingerprint == other.fingerprint:
                continue
            for difference in _differences(scope, one, other, oracle):
                key = json.dumps({**difference.to_dict(), "witness": None}, sort_keys=True)
                found.setdefault(key, (difference, scope, []))[2].append(scope.subject)
    otherwise = tuple(reading for reading in read if not reading.alike)
    if not compared and not otherwise:
        raise NothingComparedError(args)
    ordered = sorted(found.values(), key=lambda item: -item[0].share)
    return Comparison(
        before,
        after,
        tuple(compared),
        platforms,
        tuple(dict.fromkeys(scope.subject for scope in scopes if scope.subject)),
        tuple(
            Found(one, tuple(filter(None, names)), _besides(one, scope), scope.machine)
            for one, scope, names in ordered
        ),
        otherwise,
    )


def _besides(difference: Difference, scope: Scope) -> dict[str, FactValue]:
    known = {*scope.facts, *(scope.machine.facts() if scope.machine else ()), *REQUIRED_FACTS}
    known |= {name for when in difference.when for name in _facts_in(when)}
    unusual = unusual_facts(difference.platform, difference.witness, scope.machine)
    return {name: value for name, value in unusual.items() if name not in known}


def _facts_in(condition: Any) -> Iterator[str]:
    """The names in a condition, of facts and of whatever else stands there."""
    match condition:
        case Mapping():
            yield from condition
            for value in condition.values():
                yield from _facts_in(value)
        case list():
            for value in condition:
                yield from _facts_in(value)


def _differences(
    scope: Scope, before: PlatformRules, after: PlatformRules, oracle: str
) -> Iterator[Difference]:
    """The regions; their witnesses have the layer's sizes, also those that no rule asks for."""
    sizes = {name: scope.facts[name] for name in REQUIRED_FACTS if name in scope.facts}
    try:
        for one in differences(before, after, oracle, machine=scope.machine, facts=scope.facts):
            yield replace(one, witness={**one.witness, **sizes})
    except ImpossibleError as error:
        about = scope.subject or scope.platform
        raise UserError(f"nothing is compared for {about}: {error}") from None


def _scopes(
    args: argparse.Namespace, before: RuleSet, after: RuleSet, read: list[Reading]
) -> Iterator[Scope]:
    """What is compared. The layers of a model are added to ``read``."""
    stated = Stated.read(args)
    machines = machines_of(args)
    wanted = platforms_of(args, machines)
    fixed = {n: v for group in stated.groups.values() for n, v in group.items()}
    fixed |= {name: value for name, value in stated.switches.items() if name in _set(args)}
    wanted = [platform for platform in wanted if _may_have(platform, fixed)]
    if not machines:
        if args.software is not None:
            raise UserError("--software goes with --machine or --model")
        for platform in wanted:
            yield Scope(platform, None, None, fixed, None)
        return
    for machine in machines:
        if machine.device not in wanted:
            continue
        if args.model is None:
            yield Scope(machine.device, machine, None, fixed, Subject(machine.name))
        else:
            found = readings(args, stated, machine, before, after)
            read += found
            yield from _of_model(found, fixed)


def _may_have(platform: str, fixed: Mapping[str, FactValue]) -> bool:
    """Whether a kind of device may have some facts: they are not those of another kind."""
    own = {"device": platform, **foreign_facts(platform)}
    return all(fixed[name] == value for name, value in own.items() if name in fixed)


def _set(args: argparse.Namespace) -> set[str]:
    """The facts that ``--set`` names: switches of the environment do not narrow anything."""
    return {text.partition("=")[0].strip() for text in args.set}


def _of_model(found: list[Reading], fixed: Mapping[str, FactValue]) -> Iterator[Scope]:
    """A model's layers on a machine that both read alike. What users may ask for stays open."""
    for reading in found:
        question = reading.after
        if not reading.alike or isinstance(question, str) or question.oracle is None:
            continue
        facts = {n: v for n, v in question.facts.items() if FACTS[n].group != "request"}
        for name in ("model_type", "moe_activation_override"):
            if name in question.facts:
                facts[name] = question.facts[name]
        machine = reading.machine
        yield Scope(machine.device, machine, question.oracle, {**facts, **fixed}, reading.subject)
