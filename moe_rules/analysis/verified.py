"""An oracle compiled for all machines, asked where its rules and kernels make a difference."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

from moe_rules.analysis.classes import UnclassifiedError
from moe_rules.analysis.compiled import Compiled
from moe_rules.analysis.diagram import Node, Value
from moe_rules.analysis.parts import Holder, Part, holders, rules_of, without
from moe_rules.analysis.questions import REQUEST
from moe_rules.analysis.states import Server
from moe_rules.analysis.symbolic import Selection, compile_selection
from moe_rules.engine.selection import Result
from moe_rules.files.problems import Location
from moe_rules.language.rules import Backend, Kernel, Oracle, Step
from moe_rules.vocabulary.fact_values import FactValue


class VerifiedOracle:
    """The regions of an oracle inside that of possible deployments."""

    def __init__(self, compiled: Compiled) -> None:
        self.space = compiled.space
        self.diagrams = compiled.space.diagrams
        self.possible = compiled.possible
        self.selection = compiled.selections[0]
        self.oracle = self.selection.oracle
        self.serving = {server: self.selection.serves(server) for server, _ in self.selection.asked}
        self._decided = self._inside(self.selection)

    # Regions -----------------------------------------------------------------------------------

    def where(self, *conditions: Node) -> Node:
        """Where deployments can be and all conditions hold."""
        return self.diagrams.holds(self.diagrams.every([self.possible, *conditions]))

    def is_somewhere(self, *conditions: Node) -> bool:
        """Whether there is a deployment for which all conditions hold."""
        return self.where(*conditions) is not self.diagrams.false

    def witness(self, *conditions: Node) -> Mapping[str, FactValue]:
        """A deployment for which all conditions hold."""
        return self.space.facts(self.diagrams.point(self.where(*conditions)))

    def some_of(self, regions: Iterable[Node]) -> Node:
        """Where one of several conditions holds."""
        found = self.diagrams.false
        for region in regions:
            found = self.diagrams.either(found, region)
        return found

    def narrowed(self, region: Node, facts: Mapping[str, FactValue]) -> Node:
        """A region with some facts known; nowhere if the rules never look at such values."""
        classes: dict[int, int] = {}
        for level, variable in enumerate(self.space.variables):
            if all(name in facts for name in variable.facts):
                try:
                    classes[level] = variable.number(facts)
                except UnclassifiedError:
                    return self.diagrams.false
        return self.diagrams.restrict(region, classes)

    def results(self, **fields: str | None) -> Node:
        """Where results have these fields."""

        def has(result: Value) -> bool:
            return all(getattr(result, name) == value for name, value in fields.items())

        return self.diagrams.map(has, self.selection.results)

    def asked_for(self, word: str) -> Node:
        """Where a backend is asked for by this name."""
        name = self.selection.conditions.value(REQUEST, self.selection.rule_facts)
        return self.diagrams.map(lambda value: value == word, name)

    def _inside(self, selection: Selection) -> Node:
        return self.diagrams.choose(self.possible, selection.results, self.diagrams.false)

    # Kernels -----------------------------------------------------------------------------------

    @functools.cached_property
    def uses(self) -> list[tuple[Backend, Kernel, Node, Node]]:
        """Each kernel of each backend that is asked: where it would serve, and where it does."""
        found = []
        for (server, number), asked in self.selection.asked.items():
            serves = self.where(self.serving[server][number])
            kernel = server.backend.choices[number].kernel
            found.append((server.backend, kernel, serves, self.where(asked, serves)))
        for step, backend in self.takes():
            region = self.where(self.selection.regions[step.reason.location].decides)
            found.append((backend, backend.choices[0].kernel, region, region))
        return found

    def takes(self) -> Iterator[tuple[Step, Backend]]:
        """The steps that select a kernel without asking it."""
        for step in (*self.oracle.shortcuts, *self.oracle.switches):
            if step.action == "take" and step.backend is not None and step.backend.choices:
                yield step, step.backend

    # Taking parts out --------------------------------------------------------------------------

    def matters(self, part: Part) -> bool:
        """Whether some deployment is decided differently without the part."""
        oracle = without(self.oracle, part)
        within = self.applied_otherwise(part)
        if within is self.diagrams.false:
            return False
        if _have_the_same_rules(self.oracle, oracle):
            changed = [
                (server, number)
                for server, number, region in self._served_otherwise(oracle)
                if self.is_somewhere(region, self.selection.asked[server, number])
            ]
            if not changed:
                return False
            # The first to be asked of these is selected before and not after, or the reverse.
            if all(self._is_one_of_a_kind(*one) for one in changed):
                return True
        conditions, rules = self.selection.conditions, self.selection.rules
        after = compile_selection(self.space, rules, oracle, conditions, within)
        before = self.diagrams.choose(within, self._decided, self.diagrams.false)
        return after.results is not before

    def applied_otherwise(self, part: Part) -> Node:
        """Where a rule applies, or a kernel serves, that does not without a part, or reversely.

        Everywhere else, deployments are decided alike.
        """
        if part.kind in ("step", "request", "adjustment"):
            return self.where(self.selection.regions[part.location].applies)
        oracle = without(self.oracle, part)
        if len(oracle.assume) < len(self.oracle.assume):
            return self.possible
        regions = [region for _, _, region in self._served_otherwise(oracle)]
        for before, after in zip(holders(self.oracle), holders(oracle), strict=True):
            if before.condition is not after.condition:
                if before.kind == "assumption":
                    return self.possible
                if before.kind == "rule":
                    differs = self.diagrams.differ(self._applies(before), self._applies(after))
                    regions.append(differs)
        return self.where(self.some_of(regions))

    def _applies(self, holder: Holder) -> Node:
        return self.selection.conditions.applies(holder.condition, self.selection.rule_facts)

    def _served_otherwise(self, oracle: Oracle) -> Iterator[tuple[Server, int, Node]]:
        """Kernels that serve otherwise in an oracle without some part, and where."""
        pairs = zip(_backends_of(self.oracle), _backends_of(oracle), strict=True)
        changed = {id(before): after for before, after in pairs if before is not after}
        for server, number in self.selection.asked:
            backend = changed.get(id(server.backend))
            if backend is not None:
                after = self.selection.serves(Server(backend, server.assumed))[number]
                yield server, number, self.diagrams.differ(self.serving[server][number], after)

    def _is_one_of_a_kind(self, server: Server, number: int) -> bool:
        """Whether no other kernel of a backend has the same result."""
        wanted = server.backend.name, server.backend.choices[number].kernel.class_name
        alike = [
            wanted == (other.backend.name, other.backend.choices[i].kernel.class_name)
            for other, i in self.selection.asked
        ]
        return sum(alike) == 1

    # Facts -------------------------------------------------------------------------------------

    def differing_by(
        self, fact: str, within: Node
    ) -> tuple[Mapping[str, FactValue], Mapping[str, FactValue]] | None:
        """Two deployments that differ in a fact alone, and are decided differently."""
        level = self.space.level.get(fact)
        if level is None or len(self.space.variables[level].facts) > 1:
            return None
        decided = self.diagrams.choose(within, self._decided, self.diagrams.false)
        sides = [
            self.diagrams.restrict(decided, {level: number})
            for number in range(self.diagrams.sizes[level])
        ]
        for i, after in enumerate(sides):
            for j, before in enumerate(sides[:i]):
                differs = self.diagrams.apply(_are_different, before, after)
                if differs is not self.diagrams.false:
                    point = self.diagrams.point(differs)
                    one, other = ({**point, level: number} for number in (j, i))
                    return self.space.facts(one), self.space.facts(other)
        return None


def _are_different(one: Value, other: Value) -> bool:
    return isinstance(one, Result) and isinstance(other, Result) and one != other


def _backends_of(oracle: Oracle) -> Iterator[Backend]:
    yield from oracle.backends.values()
    for step in (*oracle.shortcuts, *oracle.switches):
        if step.backend is not None:
            yield step.backend
    for cases in oracle.requests.values():
        for case in cases:
            yield from case.backends


def _have_the_same_rules(one: Oracle, other: Oracle) -> bool:
    """Whether two oracles differ in their backends and kernels alone."""
    if [part for part, _ in rules_of(one)] != [part for part, _ in rules_of(other)]:
        return False
    pairs = zip(holders(one), holders(other), strict=True)
    return all(a.condition is b.condition for a, b in pairs if a.kind != "kernel")


def places_of(oracle: Oracle) -> frozenset[Location]:
    """Where the rules and backends of an oracle stand."""
    rules = {part.location for part, _ in rules_of(oracle)}
    return frozenset(rules | {backend.location for backend in oracle.backends.values()})
