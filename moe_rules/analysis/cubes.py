"""Regions in the words of the rule language: few conditions, each of few tests.

A region is covered by cubes, which are a set of classes for some variables. A cube starts at a
deployment and grows as far as the region allows, and only to sets that tests can say; so each
becomes a condition as a rule file has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass
from typing import Any

from moe_rules.analysis.classes import Space
from moe_rules.analysis.diagram import Node, Point
from moe_rules.analysis.questions import MISSING
from moe_rules.analysis.written import opposite, word, written
from moe_rules.language.fact_tests import COMPARISON
from moe_rules.vocabulary.fact_values import Fact
from moe_rules.vocabulary.facts import FACTS

Classes = frozenset[int]
UNKNOWN = "unknown"
"""Said of a fact that nobody supplies, for which rules have no test."""


@dataclass(frozen=True)
class Literal:
    """A test of one fact, as a rule file writes it, and the classes that pass it."""

    fact: str
    written: Any
    classes: Classes


@dataclass(frozen=True)
class Cube:
    """The classes of some variables, by level, and a deployment in them."""

    classes: Mapping[int, Classes]
    point: Point


class Covering:
    """Covers regions of a space by cubes, which say something of ``asked`` facts alone.

    Of ``told`` facts a cube says what holds in it, even if that goes without saying; but not what
    does so of all that is ``possible``.
    """

    def __init__(
        self,
        space: Space,
        asked: Container[str],
        possible: Node,
        told: Collection[str] = (),
    ) -> None:
        self.space = space
        self.asked = asked
        self.possible = possible
        self._told = sorted({space.level[name] for name in told if name in space.level})
        self._literals: dict[int, list[Literal]] = {}

    def cubes(self, region: Node, within: Node, most: int) -> tuple[list[Cube], Node]:
        """Cubes that, of the deployments ``within`` a larger region, are those of the region.

        What is not within may be in a cube or not, as it is said more shortly. Each cube grows from
        what is usual in the rest. With the rest of the region after ``most`` cubes.
        """
        diagrams = self.space.diagrams
        rest = diagrams.both(region, within)
        allowed = diagrams.either(region, diagrams.opposite(within))
        found: list[Cube] = []
        while rest is not diagrams.false and len(found) < most:
            cube = self._grown(diagrams.point(rest), allowed)
            cube = self._telling(cube, diagrams.both(region, self.region(cube)))
            found.append(cube)
            rest = diagrams.without(rest, self.region(cube))
        return found, rest

    def _telling(self, cube: Cube, region: Node) -> Cube:
        """The cube with all that is to be told of the region in it."""
        classes = dict(cube.classes)
        for level in self._told:
            met = self._met(level, region)
            some = self._smallest(level, met)
            if some is not None and met != self._met(level, self.possible):
                classes[level] = some & classes.get(level, some)
        return Cube(dict(sorted(classes.items())), cube.point)

    def _smallest(self, level: int, met: Classes) -> Classes | None:
        """The smallest set of classes that tests can say with some in it."""
        sets = [one.classes for one in self.literals(level) if met <= one.classes]
        return frozenset.intersection(*sets) if sets else None

    def around(self, region: Node) -> Cube:
        """The smallest cube that tests can say with all of a region in it.

        It does not say what holds of all that is possible.
        """
        diagrams = self.space.diagrams
        classes: dict[int, Classes] = {}
        for level in sorted(diagrams.support(region)):
            if not self._is_asked(level):
                continue
            met = self._met(level, region)
            some = self._smallest(level, met)
            if some is not None and met != self._met(level, self.possible):
                classes[level] = some
        return Cube(classes, diagrams.point(region))

    def _is_asked(self, level: int) -> bool:
        """Whether rules ask a variable, so that it says more than what is possible."""
        return any(fact in self.asked for fact in self.space.variables[level].facts)

    def _met(self, level: int, region: Node) -> Classes:
        """The classes of a variable that occur in a region."""
        diagrams = self.space.diagrams
        return frozenset(
            number
            for number in range(diagrams.sizes[level])
            if diagrams.restrict(region, {level: number}) is not diagrams.false
        )

    def region(self, cube: Cube) -> Node:
        """Where a cube is."""
        diagrams = self.space.diagrams
        return diagrams.every(
            [
                diagrams.variable(level, [i in some for i in range(diagrams.sizes[level])])
                for level, some in cube.classes.items()
            ]
        )

    def _grown(self, point: Point, allowed: Node) -> Cube:
        """The largest cube around a point, variables that say least being left out first."""
        diagrams = self.space.diagrams
        levels = diagrams.support(allowed)
        classes: dict[int, Classes] = {level: frozenset({point.get(level, 0)}) for level in levels}

        def fits(level: int, some: Classes) -> bool:
            return diagrams.is_within(diagrams.true, allowed, {**classes, level: some})

        for level in sorted(levels, key=lambda level: (self._is_asked(level), -level)):
            if fits(level, frozenset(range(diagrams.sizes[level]))):
                del classes[level]
        for level in sorted(classes, reverse=True):
            (own,) = classes[level]
            larger = next((some for some in self._sets(level, own) if fits(level, some)), None)
            classes[level] = classes[level] if larger is None else larger
        return Cube(dict(sorted(classes.items())), point)

    # Words -------------------------------------------------------------------------------------

    def words(self, cube: Cube) -> dict[str, Any]:
        """The condition of a cube, as a rule file has it."""
        condition: dict[str, Any] = {}
        more: list[dict[str, Any]] = []
        for level, some in cube.classes.items():
            for one in self._said(level, some):
                known = condition.get(one.fact)
                if FACTS[one.fact].per_call and not isinstance(one.written, str):
                    # Such a fact may only be compared.
                    more.append({"not": {one.fact: one.written["not"]}})
                elif known is None:
                    condition[one.fact] = one.written
                elif _is_comparison(known) and _is_comparison(one.written):
                    condition[one.fact] = " ".join(sorted((known, one.written), reverse=True))
                elif _excluded(known) and _excluded(one.written):
                    condition[one.fact] = {"not": [*_excluded(known), *_excluded(one.written)]}
                else:
                    more.append({one.fact: one.written})
        return {**condition, "all": more} if more else condition

    def literals(self, level: int) -> list[Literal]:
        """What one test can say of a variable; of several for the same, the shortest."""
        found = self._literals.get(level)
        if found is None:
            shortest: dict[Classes, Literal] = {}
            for one in self._all_literals(level):
                known = shortest.get(one.classes)
                if one.classes and (known is None or _length(one) < _length(known)):
                    shortest[one.classes] = one
            found = self._literals[level] = sorted(shortest.values(), key=_length)
        return found

    def _all_literals(self, level: int) -> list[Literal]:
        variable = self.space.variables[level]
        found = []
        for probe in (*itertools.chain(*variable.alone), *variable.together):
            names = [one for one in probe.operands if isinstance(one, str)]
            if len(names) < len(probe.operands):
                continue  # not the test of a deployment's own value
            form = _in_domain(FACTS[names[0]], written(probe.test))
            if form is None:
                continue
            for wanted, said in ((True, form), (False, opposite(FACTS[names[0]], form))):
                classes = frozenset(
                    number
                    for number, members in enumerate(variable.classes)
                    if probe.answer(dict(zip(variable.facts, members[0], strict=True))) is wanted
                )
                found.append(Literal(names[0], said, classes))
        for fact in variable.facts:
            values = variable.values(fact)
            missing = frozenset(number for number, one in enumerate(values) if one is MISSING)
            found.append(Literal(fact, UNKNOWN, missing))
        return found

    def _sets(self, level: int, own: int) -> list[Classes]:
        """Sets of classes around one that tests can say, the largest first."""
        around = {one.classes for one in self.literals(level) if own in one.classes}
        pairs = {one & other for one, other in itertools.combinations(around, 2)}
        return sorted(around | pairs, key=lambda some: (-len(some), sorted(some)))

    def _said(self, level: int, some: Classes) -> list[Literal]:
        """The fewest tests that say a set of classes."""
        literals = [one for one in self.literals(level) if some <= one.classes]
        for count in (1, 2):
            for chosen in itertools.combinations(literals, count):
                if frozenset.intersection(*(one.classes for one in chosen)) == some:
                    return self._shortened(level, some, list(chosen))
        left = frozenset(range(self.space.diagrams.sizes[level]))
        said: list[Literal] = []
        while left != some and literals:
            best = min(literals, key=lambda one: len(left & one.classes))
            if left <= best.classes:
                break
            said.append(best)
            left &= best.classes
        return self._shortened(level, some, said)

    def _shortened(self, level: int, some: Classes, said: list[Literal]) -> list[Literal]:
        """The values themselves, where a fact has few and they are shorter to say."""
        variable = self.space.variables[level]
        fact = variable.facts[0]
        if len(variable.facts) > 1 or FACTS[fact].type not in ("bool", "enum"):
            return said
        values = [word(value) for number in sorted(some) for (value,) in variable.classes[number]]
        listed = Literal(fact, values[0] if len(values) == 1 else values, some)
        return [listed] if _length(listed) < sum(map(_length, said)) or not said else said


def _length(literal: Literal) -> int:
    return len(str(literal.written))


def _is_comparison(form: Any) -> bool:
    return isinstance(form, str) and COMPARISON.match(form) is not None


def _excluded(form: Any) -> list[Any]:
    """The values that a test excludes, if it does nothing else."""
    match form:
        case {"not": list() as values}:
            return values
        case {"not": str() | int() | float() as value}:
            return [value]
    return []


def _in_domain(fact: Fact, form: Any) -> Any:
    """A test without "none", which it may have from a fact that copies this one; None if empty."""
    if fact.nullable or fact.type == "switch":
        return form
    match form:
        case {"not": inner}:
            left = _in_domain(fact, inner)
            return None if left is None else {"not": left}
        case list():
            values = [value for value in form if value != "none"]
            return None if not values else values[0] if len(values) == 1 else values
        case "none":
            return None
    return form
