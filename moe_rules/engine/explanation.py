"""What was selected and what speaks for and against everything else, computed when asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from moe_rules.engine.plan import BackendPlan, FactMap, OraclePlan, specialise, with_assumed
from moe_rules.engine.selection import How, Outcome, Result, run
from moe_rules.files.problems import Location
from moe_rules.language.conditions import Failure
from moe_rules.language.rules import (
    AUTO,
    Adjustment,
    Backend,
    Kernel,
    PlatformRules,
    Reason,
    Requested,
)
from moe_rules.vocabulary.fact_values import FactValue, plain
from moe_rules.vocabulary.record import Record

Verdict = Literal["selected", "rejected", "eligible"]
Run = tuple[OraclePlan, Outcome]
"""The rules of an oracle as they were asked, and what they came to."""


class Candidate(Record):
    """One kernel of one backend, and what speaks against it.

    ``reached``: it was asked before the decision fell. ``failures`` are all clauses that failed,
    the backend's own requirements first; ``unknown`` the facts nobody supplied.
    """

    backend: str
    kernel: str
    verdict: Verdict
    reached: bool
    backend_failures: tuple[Failure, ...]
    kernel_failures: tuple[Failure, ...]
    unknown: tuple[str, ...]
    location: Location

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every clause that failed."""
        return (*self.backend_failures, *self.kernel_failures)

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "backend": self.backend,
            "kernel": self.kernel,
            "verdict": self.verdict,
            "reached": self.reached,
            "failures": [failure.to_dict() for failure in self.failures],
            "unknown": list(self.unknown),
            "at": str(self.location),
        }


class Weighing(Record):
    """What speaks against each kernel of a backend that is offered: failed clauses, unknown facts.

    ``against`` are the backend's own requirements that fail.
    """

    backend: Backend
    against: tuple[Failure, ...]
    kernels: tuple[tuple[Kernel, tuple[Failure, ...], tuple[str, ...]], ...]


class Removed(Record):
    """A backend that a rule took out of the order, and that rule's reason."""

    backend: str
    because: str | None
    location: Location


class Explanation:
    """What came out of the rules for one layer, and why.

    ``result`` is all that came out; what explains it is computed when it is asked for: ``explain``
    then says, of what was ``asked``, how the rules were gone through. ``requested`` is the request
    for this oracle, of a rule file or the environment, that stood in for the layer's own.
    """

    __slots__ = (
        "__dict__", "_asked", "_explain", "_weighed", "oracle", "requested", "result", "rules",
    )  # fmt: skip

    def __init__(
        self,
        rules: PlatformRules,
        oracle: str,
        result: Result,
        explain: Callable[[Any], Run],
        asked: Any,
        requested: Requested | None = None,
    ) -> None:
        self.rules = rules
        self.oracle = oracle
        self.result = result
        self._explain = explain
        self._asked = asked
        self.requested = requested
        self._weighed: dict[Any, Weighing] = {}

    @functools.cached_property
    def _ran(self) -> Run:
        return self._explain(self._asked)

    def __reduce__(self) -> tuple[type[Explanation], tuple[Any, ...]]:
        """A copy goes through its rules again with the same facts: plans are code."""
        plan, outcome = self._ran
        asked = (self.rules, plan.oracle.name, plan.known, plan.unknown, outcome.supplied)
        return type(self), (self.rules, self.oracle, self.result, _again, asked, self.requested)

    @property
    def _plan(self) -> OraclePlan:
        return self._ran[0]

    @property
    def _outcome(self) -> Outcome:
        return self._ran[1]

    @property
    def platform(self) -> str:
        """The platform whose rules decided."""
        return self.rules.platform

    @property
    def fingerprint(self) -> str:
        """That of the rules."""
        return self.rules.fingerprint

    @property
    def backend(self) -> str | None:
        """Name of the backend, or None where the selection failed."""
        return self.result.backend

    @property
    def kernel(self) -> str | None:
        """Class name of the kernel, or None: where the platform's own code takes over, too."""
        return self.result.kernel

    @property
    def how(self) -> How:
        """How it was reached: "auto", "requested", "switch", "shortcut" or "fallback"."""
        return self.result.how

    @property
    def failed(self) -> bool:
        """No backend was selected."""
        return self.result.error is not None

    @property
    def order(self) -> tuple[str, ...]:
        """Backends in the order in which they stood when the decision fell."""
        return self._outcome.order

    @property
    def reason(self) -> Reason | None:
        """The shortcut, switch, request or fallback that decided, if one did."""
        return self._outcome.reason

    @property
    def deployment(self) -> FactMap:
        """The facts that were asked with, the request that applies in the place of the layer's."""
        return self._outcome.supplied

    @property
    def facts(self) -> FactMap:
        """The facts as the kernels were asked with them, before a backend's own assumptions."""
        return self._outcome.facts

    @functools.cached_property
    def kernel_facts(self) -> FactMap:
        """The facts as the selected kernel was asked with them, its backend's assumptions too."""
        for plan in self._outcome.attempts:
            if plan.backend.name == self.backend:
                return self._assumed(plan)
        return self.facts

    def sharing(self, weighed: dict[Any, Weighing]) -> None:
        """Take from ``weighed`` what speaks against backends, and add to it what is not there.

        For decisions of one deployment that differ only in the backend asked for by name, which
        no clause of a kernel tests.
        """
        self._weighed = weighed

    @functools.cached_property
    def weighed(self) -> tuple[tuple[Weighing, ...], tuple[Weighing, ...]]:
        """The backends that were asked, in that order, and those of the rest of the order."""
        asked = self._outcome.attempts
        names = {plan.backend.name for plan in asked}
        rest = [self._plan.backends[name] for name in self.order if name not in names]
        return tuple(map(self._weigh, asked)), tuple(map(self._weigh, rest))

    @functools.cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every kernel that was asked, in that order, then those of the rest of the order."""
        asked, rest = self.weighed
        found = [c for one in asked for c in self._explained(one, reached=True)]
        return tuple(found + [c for one in rest for c in self._explained(one, reached=False)])

    def explain_backend(self, name: str) -> tuple[Candidate, ...]:
        """What speaks for and against the kernels of any backend that the oracle declares.

        Raises KeyError for one that it does not declare.
        """
        reached = any(plan.backend.name == name for plan in self._outcome.attempts)
        return tuple(self._explained(self._weigh(self._plan.backends[name]), reached=reached))

    def _weigh(self, plan: BackendPlan) -> Weighing:
        key = (id(plan.backend), plan.assumed)
        found = self._weighed.get(key)
        if found is None:
            backend, facts = plan.backend, self._assumed(plan)
            kernels = []
            for choice in backend.choices:
                if choice.when.holds(facts) is True:
                    condition = choice.kernel.condition
                    unknown = dict.fromkeys(n for n in condition.fact_names() if n not in facts)
                    kernels.append(
                        (choice.kernel, tuple(condition.failures(facts)), tuple(unknown))
                    )
            against = tuple(backend.requires.failures(facts))
            found = self._weighed[key] = Weighing(backend, against, tuple(kernels))
        return found

    def _explained(self, weighing: Weighing, *, reached: bool) -> Iterator[Candidate]:
        backend, against = weighing.backend, weighing.against
        selected = self._outcome.kernel
        is_selected_backend = reached and backend.name == self._outcome.backend
        done = False
        for kernel, failures, unknown in weighing.kernels:
            chosen = is_selected_backend and kernel is selected and not done
            verdict: Verdict = "rejected" if against or failures else "eligible"
            yield Candidate(
                backend=backend.name,
                kernel=kernel.class_name,
                verdict="selected" if chosen else verdict,
                reached=reached and not done,
                backend_failures=against,
                kernel_failures=failures,
                unknown=unknown,
                location=kernel.location,
            )
            done = done or chosen

    def _assumed(self, plan: BackendPlan) -> FactMap:
        return with_assumed(self.facts, plan.assumed)

    @property
    def priority(self) -> tuple[str, ...]:
        """The priority list as the table has it, before adjustments."""
        return self._plan.oracle.priority

    @functools.cached_property
    def adjustments(self) -> tuple[Adjustment, ...]:
        """The adjustments of the priority list that apply here, in the order in which they do."""
        facts = self._outcome.facts
        return tuple(change for applies, change in self._plan.adjustments if applies(facts))

    @functools.cached_property
    def removed(self) -> tuple[Removed, ...]:
        """Backends that adjustments and switches took out of the order."""
        return tuple(
            Removed(name, reason.text, reason.location) for name, reason in self._outcome.removed
        )

    @property
    def variants_by(self) -> str | None:
        """The fact by which backends of the oracle are variants of each other, if any."""
        variants = self._plan.oracle.variants
        return None if variants is None else variants.fact

    @functools.cached_property
    def other_variants(self) -> tuple[tuple[str, FactValue], ...]:
        """Backends left out for their own value of :attr:`variants_by`, with that value."""
        if self.variants_by is None:
            return ()
        gone = {removed.backend for removed in self.removed}
        left = [name for name in self.priority if name not in gone and name not in self.order]
        backends = self._plan.backends
        return tuple((b, backends[b].value_of(self.variants_by, self.facts)) for b in left)

    @functools.cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know although a backend was found."""
        found = [
            f"{name} was tried first and cannot serve; another backend was selected "
            f"({reason.location.short}{f': {reason.text}' if reason.text else ''})"
            for name, reason in self._outcome.fell_through
        ]
        if self.how in ("switch", "auto", "fallback"):  # later than what was asked for
            name = str(self.facts["moe_backend"])
            meanings = (m.case for m in self._plan.requests.get(name, ()) if m.applies(self.facts))
            if (case := next(meanings, None)) is not None and name != AUTO:
                place = case.reason.location.short
                found.append(f"{name} was asked for and means {AUTO} here ({place})")
        fact, backend = self.variants_by, self.backend
        if fact is not None and backend is not None and backend in self._plan.backends:
            wanted = self.facts.get(fact)
            own = self._plan.backends[backend].value_of(fact, self.facts)
            if own != wanted:
                found.append(
                    f"no backend serves {fact} {plain(wanted)}; {backend} computes with "
                    f"{plain(own) or 'none'} instead"
                )
        return tuple(found)

    @functools.cached_property
    def unknown_facts(self) -> tuple[str, ...]:
        """Facts that nobody supplied: of kernels' clauses, and of rules that may apply or not."""
        oracle, facts = self._plan.oracle, self.facts
        whens = [step.when for step in (*oracle.shortcuts, *oracle.switches)]
        whens += [adjustment.when for adjustment in oracle.adjust]
        left_open = [when for when in whens if when.holds(facts) is None]
        names = [name for candidate in self.candidates for name in candidate.unknown]
        names += [name for when in left_open for name in when.fact_names() if name not in facts]
        return tuple(dict.fromkeys(names))

    @property
    def request_names(self) -> tuple[str, ...]:
        """What ``moe_backend`` may be for this oracle on this platform."""
        return tuple(self._plan.oracle.requests)

    @property
    def declared_backends(self) -> Mapping[str, Backend]:
        """Every backend that the oracle declares on this platform."""
        return self._plan.oracle.backends

    @property
    def withdrawn(self) -> Mapping[str, Reason]:
        """Backends and requests that the oracle has in another release, and why not in this one."""
        return self._plan.oracle.withdrawn


def _again(asked: tuple[PlatformRules, str, FactMap, frozenset[str], FactMap]) -> Run:
    rules, oracle, known, unknown, supplied = asked
    plan = specialise(rules, rules.oracles[oracle], known, unknown)
    return plan, run(plan, supplied)
