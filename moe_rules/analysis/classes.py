"""Facts as variables: the classes of values that rules cannot tell apart.

A fact is a variable, and facts that are compared with each other are one variable together. Two
values are of one class if every probe says the same of them, so a class is as good as any of its
values: the first, which is the most usual one, represents it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moe_rules.analysis.candidates import candidates
from moe_rules.analysis.diagram import Diagrams, Node, Point
from moe_rules.analysis.questions import (
    MISSING,
    Fixed,
    Missing,
    Probe,
    Questions,
    Seen,
    answer,
)
from moe_rules.language.fact_tests import FactTest
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS

Answers = tuple[bool | None, ...]
MAX_MEMBERS = 64
"""Values of a class that are kept: all where a fact may have few."""


class UnclassifiedError(LookupError):
    """Values that no class has: a combination of answers that was taken for impossible."""


@dataclass(frozen=True)
class Variable:
    """One fact, or several that are compared, and the classes of their values.

    ``alone`` are the probes of each fact, ``together`` those of several. ``classes`` holds some
    values of each class, those that represent it first; ``numbers`` its number by its answers.
    """

    facts: tuple[str, ...]
    alone: tuple[tuple[Probe, ...], ...]
    together: tuple[Probe, ...]
    classes: tuple[tuple[tuple[Seen, ...], ...], ...]
    numbers: Mapping[tuple[Answers, ...], int]

    def number(self, facts: Mapping[str, Seen]) -> int:
        """The class of a deployment's values. Raises UnclassifiedError."""
        number = self.find(facts)
        if number is None:
            values = ", ".join(f"{name}={facts[name]!r}" for name in self.facts)
            raise UnclassifiedError(f"no class has {values}")
        return number

    def find(self, facts: Mapping[str, Seen]) -> int | None:
        """The class of a deployment's values, None where they are in none."""
        return self.numbers.get(tuple(_answers(p, facts) for p in (*self.alone, self.together)))

    def values(self, fact: str) -> list[Seen]:
        """The value of one of the facts that represents each class."""
        position = self.facts.index(fact)
        return [members[0][position] for members in self.classes]


class Space:
    """All deployments, as far as some questions tell them apart: a manager and its variables.

    ``usual`` are values that are met first where they are possible, by fact; those of a
    ``deployment`` are met even where no deployment should have them.
    """

    def __init__(
        self,
        questions: Questions,
        usual: Mapping[str, Sequence[FactValue]] | None = None,
        deployment: Mapping[str, FactValue] | None = None,
    ) -> None:
        self.constants = questions.constants
        self._usual = usual or {}
        self._deployment = deployment or {}
        probes = questions.probes()
        groups = _groups(probes)
        groups.sort(key=lambda facts: min(map(_place, facts)))
        self.variables = [self._variable(group, probes, questions.unknown) for group in groups]
        self.diagrams = Diagrams([len(variable.classes) for variable in self.variables])
        self.level = {name: level for level, one in enumerate(self.variables) for name in one.facts}

    def _variable(
        self, group: tuple[str, ...], probes: Sequence[Probe], unknown: Iterable[str]
    ) -> Variable:
        own = [probe for probe in probes if not probe.facts.isdisjoint(group)]
        alone = tuple(tuple(p for p in own if p.facts == {name}) for name in group)
        together = tuple(probe for probe in own if len(probe.facts) > 1)
        found: dict[tuple[Answers, ...], list[tuple[Seen, ...]]] = {}
        for combination in itertools.product(*self._pools(group, own, alone, unknown)):
            values = tuple(value for value, _ in combination)
            facts = dict(zip(group, values, strict=True))
            key = (*(answers for _, answers in combination), _answers(together, facts))
            members = found.setdefault(key, [])
            if len(members) < MAX_MEMBERS:
                members.append(values)
        numbers = {key: number for number, key in enumerate(found)}
        return Variable(group, alone, together, tuple(map(tuple, found.values())), numbers)

    def _pools(
        self,
        group: tuple[str, ...],
        probes: Sequence[Probe],
        alone: Sequence[tuple[Probe, ...]],
        unknown: Iterable[str],
    ) -> list[list[tuple[Seen, Answers]]]:
        """Values of each fact of a variable, with what its own probes say of them."""
        pools: list[list[tuple[Seen, Answers]]] = []
        tests = list(dict.fromkeys(probe.test for probe in probes))
        fixed = [one.value for p in probes for one in p.operands if isinstance(one, Fixed)]
        compared = [value for value in fixed if not isinstance(value, Missing)]
        numbers = [value for value in compared if type(value) is int]
        for name, own in zip(group, alone, strict=True):
            values: list[Seen] = [
                *candidates(FACTS[name], tests, (*self._usual.get(name, ()), *compared), numbers)
            ]
            if name in self._deployment:
                values.append(self._deployment[name])
            if len(group) > 1:
                values = _distinct(values, [t for t in tests if not t.facts()], len(group))
            numbers += [value for value in values if type(value) is int]
            values = [MISSING, *values] if name in unknown else values
            pools.append([(value, _answers(own, {name: value})) for value in values])
        return pools

    def moves(self, facts: Mapping[str, FactValue]) -> dict[int, list[int]]:
        """To which class each class of a variable comes, by level, where some facts are others.

        For facts that the questions were told of (:meth:`Questions.set`).
        """
        found: dict[int, list[int]] = {}
        for level in {self.level[name] for name in facts if name in self.level}:
            variable = self.variables[level]
            found[level] = [
                variable.number({**dict(zip(variable.facts, members[0], strict=True)), **facts})
                for members in variable.classes
            ]
        return found

    # Between facts and points ------------------------------------------------------------------

    def value(self, fact: str) -> Node:
        """The diagram of a fact's value: a constant, or the representative of each class."""
        if fact in self.constants:
            return self.diagrams.leaf(self.constants[fact])
        level = self.level.get(fact)
        if level is None:
            return self.diagrams.leaf(MISSING)
        return self.diagrams.variable(level, self.variables[level].values(fact))

    def point(self, facts: Mapping[str, FactValue]) -> Point:
        """Where a deployment lies, found out variable by variable when it is asked for.

        Asking for a variable raises UnclassifiedError where its values, or facts that are not
        supplied, are in no class.
        """
        return _Located(self.variables, facts)

    def facts(self, point: Mapping[int, int]) -> dict[str, FactValue]:
        """A deployment at a point, of usual values where it leaves a class open."""
        found: dict[str, FactValue] = {
            name: value for name, value in self.constants.items() if value is not MISSING
        }
        for level, variable in enumerate(self.variables):
            values = variable.classes[point.get(level, 0)][0]
            for name, value in zip(variable.facts, values, strict=True):
                if value is not MISSING:
                    found[name] = value
        return found


def _answers(probes: Iterable[Probe], facts: Mapping[str, Seen]) -> Answers:
    return tuple([probe.answer(facts) for probe in probes])


def _distinct(values: Iterable[Seen], tests: Sequence[FactTest], enough: int) -> list[Seen]:
    """Of values on which all tests agree, as many as facts may have that are compared.

    Of numbers, more: they may divide each other.
    """
    kept: dict[Answers, list[Seen]] = {}
    for value in values:
        members = kept.setdefault(tuple([answer(test, value) for test in tests]), [])
        if type(value) is int or len(members) < enough:
            members.append(value)
    return [value for members in kept.values() for value in members]


class _Located(Point):
    """The classes of a deployment, by level, each once it is asked for."""

    def __init__(self, variables: Sequence[Variable], facts: Mapping[str, FactValue]) -> None:
        self._variables = variables
        self._facts = facts

    def __missing__(self, level: int) -> int:
        variable = self._variables[level]
        seen = {name: self._facts.get(name, MISSING) for name in variable.facts}
        found = self[level] = variable.number(seen)
        return found


def _groups(probes: Iterable[Probe]) -> list[tuple[str, ...]]:
    """The facts, those together that some probe compares."""
    group_of: dict[str, frozenset[str]] = {}
    for probe in probes:
        together = probe.facts.union(*(group_of.get(name, frozenset()) for name in probe.facts))
        for name in together:
            group_of[name] = together
    # A divisor before what it divides: its values are divisors to look for.
    divisors = {one for p in probes for one in p.operands[1:] if isinstance(one, str)}
    unique = dict.fromkeys(group_of.values())
    return [tuple(sorted(g, key=lambda n: (n not in divisors, _place(n)))) for g in unique]


_GROUPS = ("request", "quantization", "platform", "parallel", "layer", "software", "derived")
_PLACES = {
    name: (_GROUPS.index(fact.group), number) for number, (name, fact) in enumerate(FACTS.items())
}


def _place(fact: str) -> tuple[int, int]:
    """Where a fact stands in the order of variables."""
    return _PLACES[fact]
