"""Which lines of rule files examples cover: those whose rule made a difference to one of them.

A rule that applied (a step, an adjustment, a request, an assumption, ``otherwise``), a backend and
a kernel that were selected, and a requirement that refused a layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from moe_rules.engine.decision import Decision
from moe_rules.files.problems import Location
from moe_rules.language.conditions import All, Any, Clause, Condition, Failure, Not
from moe_rules.language.fact_tests import Anything
from moe_rules.language.rules import PlatformRules
from moe_rules.language.schemes import Schemes

Line = tuple[str, int]
"""A file and a line of it."""


def lines_of(rules: PlatformRules) -> set[Line]:
    """The lines on which a rule stands that can be covered."""
    return {_line(place) for place in _places(rules)}


def covered_by(decision: Decision) -> set[Line]:
    """The lines that one decision covers."""
    return {_line(place) for place in _covered(decision)}


def _line(place: Location) -> Line:
    return place.file, place.line


def _places(rules: PlatformRules) -> Iterator[Location]:
    for oracle in rules.oracles.values():
        yield from (assumption.reason.location for assumption in oracle.assume)
        yield from (step.reason.location for step in (*oracle.shortcuts, *oracle.switches))
        yield from (case.reason.location for cases in oracle.requests.values() for case in cases)
        yield from (adjustment.reason.location for adjustment in oracle.adjust)
        yield oracle.otherwise.reason.location
        for backend in oracle.backends.values():
            yield backend.location
            yield from _requirements(backend.requires)
            for choice in backend.choices:
                yield choice.kernel.location
                yield from _requirements(choice.kernel.condition)


def _requirements(condition: Condition) -> Iterator[Location]:
    """Where a failure of a condition may be said to be."""
    match condition:
        case All(parts):
            yield from (place for part in parts for place in _requirements(part))
        case Any(parts, location):
            yield location
            yield from (place for part in parts for place in _requirements(part))
        case Clause(test=test, location=location) if not isinstance(test, Anything):
            yield location
        case Not(location=location) | Schemes(location=location):
            yield location


def _covered(decision: Decision) -> Iterator[Location]:
    outcome, plan = decision._outcome, decision._plan
    yield from (
        assumption.reason.location
        for assumption in plan.oracle.assume
        if assumption.when.holds(decision.facts) is True
    )
    yield from (change.reason.location for change in decision.adjustments)
    yield from (removed.location for removed in decision.removed)
    yield from (reason.location for _, reason in outcome.fell_through)
    if decision.reason is not None:
        yield decision.reason.location
    backend = decision.declared_backends.get(decision.backend or "")
    if backend is not None:
        yield backend.location
    if outcome.kernel is not None:
        yield outcome.kernel.location
    for candidate in decision.candidates:
        yield from (place for failure in candidate.failures for place in _failed(failure))


def _failed(failure: Failure) -> Iterator[Location]:
    yield failure.location
    for alternative in failure.alternatives:
        for inner in alternative:
            yield from _failed(inner)
