"""Specialises one oracle's rules to what is known when they are loaded.

Platform and software facts are constants on a given machine, so most clauses are decided once.
What remains is compiled to plain functions of the facts that differ from layer to layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from moe_rules.language.conditions import ALWAYS, NEVER, Condition, Constant
from moe_rules.language.fact_tests import Predicate
from moe_rules.language.rules import (
    Adjustment,
    Assumed,
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
        assumed = [(a.when.fold(known, unknown), a.values) for a in oracle.assume]
        # A fact that is assumed under some condition only is no constant.
        for when, values in assumed:
            for name, value in values:
                known.pop(name, None)
                if when is ALWAYS and not isinstance(value, ValueOf):
                    known[name] = value
        self.known = known
        self.unknown = frozenset(name for name in unknown if name not in known)

    def plan(self) -> OraclePlan:
        oracle = self.oracle
        return OraclePlan(
            oracle=oracle,
            known=self.known,
            unknown=self.unknown,
            derived=self._derived(),
            assumptions=[
                (None if when is ALWAYS else when.predicate(unknown=False), _assume(a.values))
                for a in oracle.assume
                if (when := self._fold(a.when)) is not NEVER
            ],
            shortcuts=self._steps(oracle.shortcuts),
            requests={
                word: [plan for case in cases if (plan := self._request(case)) is not None]
                for word, cases in oracle.requests.items()
            },
            switches=self._steps(oracle.switches),
            adjustments=[
                (when.predicate(unknown=False), adjustment)
                for adjustment in oracle.adjust
                if not _never(when := self._fold(adjustment.when))
            ],
            backends={name: self._backend(b, ()) for name, b in oracle.backends.items()},
        )

    def _fold(self, condition: Condition) -> Condition:
        return condition.fold(self.known, self.unknown)

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
                plans.append(StepPlan(step, when.predicate(unknown=False), backend or None))
        return plans

    def _request(self, case: RequestCase) -> RequestPlan | None:
        when = self._fold(case.when)
        if _never(when):
            return None
        backends = [self._backend(backend, case.assume) for backend in case.backends]
        return RequestPlan(case, when.predicate(unknown=False), backends)

    def _backend(self, backend: Backend, assume: Assumed) -> BackendPlan:
        assumed = assumed_together(assume, backend.assume)
        known, unknown = dict(self.known), self.unknown
        for name, value in assumed:
            known.pop(name, None)
            unknown = unknown - {name}
            if not isinstance(value, ValueOf):
                known[name] = value
        requires = backend.requires.fold(known, unknown)
        kernels = []
        if requires is not NEVER:
            for choice in backend.choices:
                offered = choice.when.fold(known, unknown)
                fits = choice.kernel.condition.fold(known, unknown)
                if _never(offered) or fits is NEVER:
                    continue
                kernels.append(KernelPlan(choice.kernel, _both(offered, fits)))
        return BackendPlan(
            backend=backend,
            assumed=assumed,
            assume=_assume(assumed) if assumed else None,
            requires=None if requires is ALWAYS else requires.predicate(unknown=True),
            kernels=kernels,
        )


def _never(condition: Condition) -> bool:
    """A condition that has to hold for a rule to apply, and never will be known to."""
    return isinstance(condition, Constant) and not condition.value


def _both(offered: Condition, fits: Condition) -> Predicate:
    asks = fits.predicate(unknown=True)
    if offered is ALWAYS:
        return asks
    is_offered = offered.predicate(unknown=False)
    return lambda facts: is_offered(facts) and asks(facts)


def _assume(values: Assumed) -> Assume:
    constants = {name: v for name, v in values if not isinstance(v, ValueOf)}
    copies = [(name, v.fact) for name, v in values if isinstance(v, ValueOf)]
    if not copies:
        return lambda facts: {**facts, **constants}
    return lambda facts: {**facts, **constants, **{name: facts[other] for name, other in copies}}


def with_assumed(facts: FactMap, assumed: Assumed) -> FactMap:
    """The facts with some of them assumed."""
    return _assume(assumed)(facts)
