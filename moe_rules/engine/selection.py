"""The selection: one small pipeline for every oracle, with no name of anything in it.

assume -> shortcuts -> request -> switches -> order -> requirements -> otherwise. What differs
between oracles is data; see ``docs/rules.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from moe_rules.engine.plan import BackendPlan, FactMap, OraclePlan, Order, RequestPlan, StepPlan
from moe_rules.language.rules import AUTO, Adjustment, ErrorKind, Kernel, Reason, ValueOf
from moe_rules.vocabulary.record import Record

How = Literal["auto", "requested", "switch", "shortcut", "fallback"]
Why = Literal["unknown_request", "request_cannot_serve", "refused", "no_backend"]


class Result(Record):
    """What a selection comes to: a backend with its kernel's class, or an error and its cause."""

    how: How
    backend: str | None = None
    kernel: str | None = None
    error: ErrorKind | None = None
    why: Why | None = None


@dataclass(slots=True)
class Refusal:
    """Why a selection ended without a backend."""

    kind: ErrorKind
    why: Why
    text: str = ""
    reason: Reason | None = None


@dataclass(slots=True)
class Outcome:
    """What a selection came to.

    ``supplied`` are the facts that were asked with, ``facts`` with what follows and is assumed.
    ``order`` is the order of backends when the decision fell, ``attempts`` the backends whose
    kernels were asked (with the facts they assume), ``removed`` what adjustments and switches
    took out.
    """

    how: How
    facts: FactMap
    supplied: FactMap
    backend: str | None = None
    kernel: Kernel | None = None
    order: tuple[str, ...] = ()
    attempts: list[BackendPlan] = field(default_factory=list)
    removed: list[tuple[str, Reason]] = field(default_factory=list)
    reason: Reason | None = None
    refusal: Refusal | None = None
    fell_through: list[tuple[str, Reason]] = field(default_factory=list)

    @property
    def result(self) -> Result:
        """What it came to, without what led there."""
        kernel = None if self.kernel is None else self.kernel.class_name
        if self.refusal is None:
            return Result(self.how, self.backend, kernel, None, None)
        return Result(self.how, self.backend, kernel, self.refusal.kind, self.refusal.why)


def run(plan: OraclePlan, supplied: FactMap) -> Outcome:
    """Select. Raises KeyError with the name of a fact that is needed and not supplied."""
    facts = _complete(plan, supplied)
    outcome = Outcome("shortcut", facts, supplied)
    withdrawn = _set_order(plan, facts, outcome)
    if _steps(plan.shortcuts, "shortcut", facts, outcome):
        return outcome
    name = facts["moe_backend"]
    case: RequestPlan | None = None
    if name != AUTO:
        cases = plan.requests.get(str(name), ())
        case = next((candidate for candidate in cases if candidate.applies(facts)), None)
        if case is None:
            outcome.how = "requested"
            outcome.refusal = Refusal("invalid_request", "unknown_request")
            return outcome
        if not case.case.auto:
            _serve_request(plan, case, withdrawn, facts, outcome)
            return outcome
    if _steps(plan.switches, "switch", facts, outcome):
        return outcome
    outcome.how = "auto"
    if _serve(outcome, [plan.backends[backend] for backend in outcome.order], facts):
        return outcome
    otherwise = plan.oracle.otherwise
    outcome.how = "fallback"
    outcome.backend = otherwise.backend
    outcome.reason = otherwise.reason
    if otherwise.backend is None:
        outcome.refusal = Refusal(
            otherwise.error, "no_backend", otherwise.reason.text or "", otherwise.reason
        )
    return outcome


def _complete(plan: OraclePlan, supplied: FactMap) -> FactMap:
    """The supplied facts with those that follow from them and those the oracle assumes."""
    facts = dict(supplied)
    for name, cases in plan.derived:
        for holds, value in cases:
            truth = holds(facts)
            if truth is None:
                break  # neither this case nor a later one is known to apply
            if truth:
                facts[name] = facts[value.fact] if isinstance(value, ValueOf) else value
                break
    for applies, assume in plan.assumptions:
        if applies is None or applies(facts):
            facts = assume(facts)
    return facts


def _serve(outcome: Outcome, backends: Iterable[BackendPlan], facts: FactMap) -> bool:
    """Ask backends in order; note the first that takes the layer."""
    attempts = outcome.attempts
    for backend in backends:
        attempts.append(backend)
        kernel = backend.serve(facts)
        if kernel is not None:
            outcome.backend = backend.backend.name
            outcome.kernel = kernel
            return True
    return False


def _steps(steps: list[StepPlan], how: How, facts: FactMap, outcome: Outcome) -> bool:
    """Go through shortcuts or switches; true where one of them decided."""
    for plan in steps:
        if not plan.applies(facts):
            continue
        step, backend = plan.step, plan.backend
        if step.action == "drop":
            _drop(outcome, step.names, step.reason)
            continue
        outcome.how = how
        outcome.reason = step.reason
        if step.action == "refuse":
            outcome.refusal = Refusal(step.error, "refused", step.text, step.reason)
            return True
        assert backend is not None
        if step.action == "take":
            choices = backend.backend.choices
            outcome.backend = backend.backend.name
            outcome.kernel = choices[0].kernel if choices else None
            return True
        if _serve(outcome, [backend], facts):
            return True
        if step.action == "force":
            outcome.refusal = Refusal(step.error, "request_cannot_serve", reason=step.reason)
            return True
        outcome.fell_through.append((backend.backend.name, step.reason))
        outcome.reason = None
        # What was tried in vain is not tried again; a step with kernels of its own says nothing
        # about the backend's other kernels.
        if not step.own_kernels:
            _drop(outcome, (backend.backend.name,), step.reason)
    return False


def _drop(outcome: Outcome, names: tuple[str, ...], reason: Reason) -> None:
    outcome.removed.extend((name, reason) for name in names if name in outcome.order)
    outcome.order = tuple(name for name in outcome.order if name not in names)


def _serve_request(
    plan: OraclePlan,
    request: RequestPlan,
    withdrawn: frozenset[str],
    facts: FactMap,
    outcome: Outcome,
) -> None:
    outcome.how = "requested"
    outcome.reason = request.case.reason
    backends = [b for b in request.backends if b.backend.name not in withdrawn]
    if not request.case.all_variants:
        backends = _narrow(plan, backends, facts)
    if not _serve(outcome, backends, facts):
        outcome.refusal = Refusal(
            plan.oracle.request_error, "request_cannot_serve", reason=request.case.reason
        )


def _set_order(plan: OraclePlan, facts: FactMap, outcome: Outcome) -> frozenset[str]:
    """Put the adjusted order into ``outcome``; return the backends that are withdrawn."""
    bits = tuple([applies(facts) for applies, _ in plan.adjustments])
    known = plan.orders.get(bits)
    if known is None:
        active = [a for bit, (_, a) in zip(bits, plan.adjustments, strict=True) if bit]
        known = plan.orders[bits] = _adjusted_order(plan.oracle.priority, active)
    order, removed, withdrawn = known
    outcome.removed.extend(removed)
    if plan.oracle.variants is not None:
        backends = [plan.backends[name] for name in order]
        order = tuple(b.backend.name for b in _narrow(plan, backends, facts))
    outcome.order = order
    return withdrawn


def _narrow(plan: OraclePlan, backends: list[BackendPlan], facts: FactMap) -> list[BackendPlan]:
    """Keep the variants that the deployment asks for, then the fallback ones."""
    variants = plan.oracle.variants
    if variants is None:
        return backends
    own = [backend.value_of(variants.fact, facts) for backend in backends]
    return narrowed(backends, own, facts[variants.fact], variants.fallback)


BackendT = TypeVar("BackendT")


def narrowed(
    backends: list[BackendT], own: Sequence[object], wanted: object, fallback: object
) -> list[BackendT]:
    """The backends whose ``own`` value of a fact is wanted, then those with the fallback."""
    matching = [backend for backend, value in zip(backends, own, strict=True) if value == wanted]
    if wanted == fallback:
        return matching or backends
    return matching + [
        backend
        for backend, value in zip(backends, own, strict=True)
        if value == fallback and backend not in matching
    ]


def _adjusted_order(priority: tuple[str, ...], active: list[Adjustment]) -> Order:
    order, withdrawn = priority, frozenset[str]()
    for adjustment in active:
        order, withdrawn = adjusted(adjustment, order, withdrawn)
    removals = [a for a in active if a.action in ("drop", "withdraw")]
    removed = ((name, a.reason) for a in removals for name in a.names if name not in order)
    return order, tuple(removed), withdrawn


def adjusted(
    adjustment: Adjustment, order: tuple[str, ...], withdrawn: frozenset[str]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """The order of backends, and those that are not even available by name, after an adjustment.

    What it puts into the order again is no longer withdrawn.
    """
    names = adjustment.names
    if adjustment.anchor is not None:
        moved = list(order)
        _move(moved, names[0], adjustment.action == "before", adjustment.anchor)
        return tuple(moved), withdrawn.difference(moved)
    rest = tuple(name for name in order if name not in names)
    match adjustment.action:
        case "first":
            return (*names, *rest), withdrawn.difference(names)
        case "last":
            return (*rest, *names), withdrawn.difference(names)
        case "withdraw":
            return rest, withdrawn.union(names)
    return rest, withdrawn


def _move(order: list[str], name: str, before: bool, anchor: str) -> None:
    """Put ``name`` directly before or after ``anchor``, unless it already is ahead of it."""
    if anchor not in order:
        return
    if before and name in order and order.index(name) < order.index(anchor):
        return
    if name in order:
        order.remove(name)
    order.insert(order.index(anchor) + (0 if before else 1), name)
