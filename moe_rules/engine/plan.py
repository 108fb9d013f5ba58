"""Specialises one oracle's rules to what is known when they are loaded.

Platform and software facts are constants on a given machine, so most clauses are decided once.
What remains is compiled to plain functions of the facts that differ from layer to layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from moe_rules.language.conditions import ALWAYS, NEVER, Condition, Constant
from moe_rules.language.fact_tests import Predicate
from moe_rules.language.rules import (
    Adjustment,
    Assumed,
    Assumption,
    Backend,
    Kernel,
    Oracle,
    PlatformRules,
    Reason,
    RequestCase,
    Step,
    ValueOf,
    assumed_together,
)
from moe_rules.vocabulary.fact_values import FactValue

FactMap = dict[str, FactValue]
Assume = Callable[[FactMap], FactMap]
Truth = Callable[[FactMap], bool | None]
Order = tuple[tuple[str, ...], tuple[tuple[str, Reason], ...], frozenset[str]]
"""Adjusted backends, those removed with the reason, and those not available even by name."""


@dataclass(slots=True)
class KernelPlan:
    """A kernel that the machine does not rule out, and what it still asks of a layer."""

    kernel: Kernel
    fits: Predicate


@dataclass(slots=True)
class BackendPlan:
    """A backend on this machine; without kernels where no layer could use it."""

    backend: Backend
    assumed: Assumed
    assume: Assume | None
    requires: Predicate | None
    kernels: list[KernelPlan]

    def serve(self, facts: FactMap) -> Kernel | None:
        """The first kernel that takes a layer with these facts."""
        if not self.kernels:
            return None
        if self.assume is not None:
            facts = self.assume(facts)
        if self.requires is not None and not self.requires(facts):
            return None
        for plan in self.kernels:
            if plan.fits(facts):
                return plan.kernel
        return None

    def value_of(self, fact: str, facts: FactMap) -> FactValue:
        """The backend's own value of a fact, where it has one, or the deployment's."""
        for name, value in self.assumed:
            if name == fact:
                return facts[value.fact] if isinstance(value, ValueOf) else value
        return facts[fact]


@dataclass(slots=True)
class StepPlan:
    """A shortcut or switch that may apply on this machine."""

    step: Step
    applies: Predicate
    backend: BackendPlan | None


@dataclass(slots=True)
class RequestPlan:
    """One meaning of a requested name."""

    case: RequestCase
    applies: Predicate
    backends: list[BackendPlan]


@dataclass(slots=True)
class OraclePlan:
    """An oracle specialised to ``known`` facts; ``unknown`` ones will never be supplied."""

    oracle: Oracle
    known: FactMap
    unknown: frozenset[str]
    derived: list[tuple[str, list[tuple[Truth, FactValue | ValueOf]]]]
    assumptions: list[tuple[Predicate | None, Assume]]
    shortcuts: list[StepPlan]
    requests: Mapping[str, list[RequestPlan]]
    switches: list[StepPlan]
    adjustments: list[tuple[Predicate, Adjustment]]
    backends: Mapping[str, BackendPlan]
    orders: dict[tuple[bool, ...], Order] = field(default_factory=dict)


def specialise(
    rules: PlatformRules, oracle: Oracle, known: Mapping[str, FactValue], unknown: Iterable[str]
) -> OraclePlan:
    """Fold the known facts into an oracle's rules."""
    return _Specialiser(rules, oracle, dict(known), frozenset(unknown)).plan()


class _Specialiser:
    def __init__(
        self, rules: PlatformRules, oracle: Oracle, known: FactMap, unknown: frozenset[str]
    ) -> None:
        self.rules = rules
        self.oracle = oracle
        self.given = known, unknown
        self.known, self.unknown = self.given
        self.perhaps: frozenset[str] = frozenset()
        # Derived facts follow from what is supplied, before anything is assumed.
        self.derived = self._derived()
        self.assumptions: list[tuple[Predicate | None, Assume]] = []
        for assumption in oracle.assume:
            self._assume_from_now(assumption)

    def _assume_from_now(self, assumption: Assumption) -> None:
        """Rules that come later, other assumptions among them, meet what this one assumes."""
        when = self._fold(assumption.when)
        if _never(when):
            return
        assume = _assume(assumption.values)
        if when is ALWAYS:
            self.assumptions.append((None, assume))
            self.known, self.unknown = _assuming(assumption.values, self.known, self.unknown)
        else:
            self.assumptions.append((self._predicate(when, unknown=False), assume))
            # A fact that is assumed under some condition only is no constant, nor always unknown.
            names = {name for name, _ in assumption.values}
            self.known = {n: value for n, value in self.known.items() if n not in names}
            self.perhaps |= self.unknown & names
            self.unknown -= names

    def plan(self) -> OraclePlan:
        oracle = self.oracle
        known, unknown = self.given
        return OraclePlan(
            oracle=oracle,
            known=known,
            unknown=unknown,
            derived=self.derived,
            assumptions=self.assumptions,
            shortcuts=self._steps(oracle.shortcuts),
            requests={
                word: [plan for case in cases if (plan := self._request(case)) is not None]
                for word, cases in oracle.requests.items()
            },
            switches=self._steps(oracle.switches),
            adjustments=[
                (self._predicate(when, unknown=False), adjustment)
                for adjustment in oracle.adjust
                if not _never(when := self._fold(adjustment.when))
            ],
            backends={name: self._backend(b, ()) for name, b in oracle.backends.items()},
        )

    def _fold(self, condition: Condition) -> Condition:
        return condition.fold(self.known, self.unknown)

    def _predicate(self, folded: Condition, *, unknown: bool) -> Predicate:
        """A function of the facts, ``unknown`` standing for what nobody supplies or assumes.

        Any other fact that it needs and nobody supplies is still a KeyError.
        """
        perhaps = self.perhaps.intersection(folded.fact_names())
        if not perhaps:
            return folded.predicate(unknown=unknown)

        @functools.cache
        def without(absent: frozenset[str]) -> Predicate:
            return folded.fold({}, absent).predicate(unknown=unknown)

        return lambda facts: without(perhaps.difference(facts))(facts)

    def _derived(self) -> list[tuple[str, list[tuple[Truth, FactValue | ValueOf]]]]:
        return [
            (
                derived.fact.name,
                [
                    (self._truth(when), value)
                    for when, value in derived.cases
                    if self._fold(when) is not NEVER
                ],
            )
            for derived in self.rules.derived
            if derived.fact.name not in self.unknown
        ]

    def _truth(self, condition: Condition) -> Truth:
        """A function that says None where unknown facts leave the condition open."""
        folded = self._fold(condition)
        if self.unknown.isdisjoint(condition.fact_names()):
            return folded.predicate(unknown=False)
        return folded.holds

    def _steps(self, steps: Iterable[Step]) -> list[StepPlan]:
        plans = []
        for step in steps:
            when = self._fold(step.when)
            if not _never(when):
                backend = step.backend and self._backend(step.backend, step.assume)
                plans.append(StepPlan(step, self._predicate(when, unknown=False), backend or None))
        return plans

    def _request(self, case: RequestCase) -> RequestPlan | None:
        when = self._fold(case.when)
        if _never(when):
            return None
        backends = [self._backend(backend, case.assume) for backend in case.backends]
        return RequestPlan(case, self._predicate(when, unknown=False), backends)

    def _backend(self, backend: Backend, assume: Assumed) -> BackendPlan:
        assumed = assumed_together(assume, backend.assume)
        known, unknown = _assuming(assumed, self.known, self.unknown)
        requires = backend.requires.fold(known, unknown)
        kernels = []
        if requires is not NEVER:
            for choice in backend.choices:
                offered = choice.when.fold(known, unknown)
                fits = choice.kernel.condition.fold(known, unknown)
                if _never(offered) or fits is NEVER:
                    continue
                kernels.append(KernelPlan(choice.kernel, self._both(offered, fits)))
        return BackendPlan(
            backend=backend,
            assumed=assumed,
            assume=_assume(assumed) if assumed else None,
            requires=None if requires is ALWAYS else self._predicate(requires, unknown=True),
            kernels=kernels,
        )

    def _both(self, offered: Condition, fits: Condition) -> Predicate:
        asks = self._predicate(fits, unknown=True)
        if offered is ALWAYS:
            return asks
        is_offered = self._predicate(offered, unknown=False)
        return lambda facts: is_offered(facts) and asks(facts)


def _assuming(
    assumed: Assumed, known: FactMap, unknown: frozenset[str]
) -> tuple[FactMap, frozenset[str]]:
    """What is known, and what never will be, where some facts are assumed."""
    names = {name for name, _ in assumed}
    constants = {name: v for name, v in assumed if not isinstance(v, ValueOf)}
    kept = {name: value for name, value in known.items() if name not in names}
    return {**kept, **constants}, unknown - names


def _never(condition: Condition) -> bool:
    """A condition that has to hold for a rule to apply, and never will be known to."""
    return isinstance(condition, Constant) and not condition.value


def _assume(values: Assumed) -> Assume:
    constants = {name: v for name, v in values if not isinstance(v, ValueOf)}
    copies = [(name, v.fact) for name, v in values if isinstance(v, ValueOf)]
    if not copies:
        return lambda facts: {**facts, **constants}
    return lambda facts: {**facts, **constants, **{name: facts[other] for name, other in copies}}


def with_assumed(facts: FactMap, assumed: Assumed) -> FactMap:
    """The facts with some of them assumed."""
    return _assume(assumed)(facts)
