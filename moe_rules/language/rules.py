"""The rules of one platform with every name resolved: what the engine works with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from moe_rules.files.problems import Location, Problem
from moe_rules.language.conditions import ALWAYS, Condition
from moe_rules.vocabulary.fact_values import Fact, FactValue
from moe_rules.vocabulary.record import Record

ErrorKind = Literal["not_supported", "invalid_request"]

AUTO = "auto"
"""The request for automatic selection; a name may also stand for it."""


class ValueOf(Record):
    """Stands for the value of another fact."""

    fact: str


Assumed = tuple[tuple[str, FactValue | ValueOf], ...]


def assumed_together(own: Assumed, backends: Assumed) -> Assumed:
    """What a step or request assumes and what its backend does; its own value of a fact wins."""
    names = {name for name, _ in own}
    return (*own, *(pair for pair in backends if pair[0] not in names))


class Derived(Record):
    """A fact that follows from others: the first case that holds gives the value."""

    fact: Fact
    cases: tuple[tuple[Condition, FactValue | ValueOf], ...]


class Kernel(Record):
    """What one kernel class supports. ``name`` is the table entry, ``class_name`` the class."""

    name: str
    class_name: str
    condition: Condition
    location: Location


class Reason(Record):
    """Why a rule is there, and where it stands."""

    text: str | None
    location: Location
    quirk: str | None = None


class Choice(Record):
    """A kernel that a backend may use, and where it offers it."""

    kernel: Kernel
    when: Condition = ALWAYS


class Backend(Record):
    """A backend: its kernels in the order they are asked.

    ``withdrawn`` are kernels that it would have, had no file withdrawn them, and why.
    """

    name: str
    choices: tuple[Choice, ...]
    requires: Condition
    assume: Assumed
    location: Location
    withdrawn: tuple[tuple[str, Reason], ...] = ()


class Assumption(Record):
    """Facts that hold from the start of a selection."""

    when: Condition
    values: Assumed
    reason: Reason


class Step(Record):
    """A shortcut or a switch. ``backend`` is set for take, try and force.

    ``own_kernels``: the step asks other kernels than the backend's.
    """

    action: Literal["take", "try", "force", "refuse", "drop"]
    when: Condition
    reason: Reason
    backend: Backend | None = None
    names: tuple[str, ...] = ()
    text: str = ""
    assume: Assumed = ()
    error: ErrorKind = "invalid_request"
    own_kernels: bool = False


class RequestCase(Record):
    """What a requested name means under a condition: backends to ask, in order."""

    when: Condition
    backends: tuple[Backend, ...]
    auto: bool
    assume: Assumed
    all_variants: bool
    reason: Reason


class Adjustment(Record):
    """A change of the order. ``anchor`` is the other backend of before and after."""

    action: Literal["first", "last", "before", "after", "drop", "withdraw"]
    names: tuple[str, ...]
    when: Condition
    reason: Reason
    anchor: str | None = None


class Variants(Record):
    """Narrow backends to those whose own value of ``fact`` is the one asked for."""

    fact: str
    fallback: FactValue


class Otherwise(Record):
    """The outcome where no backend serves."""

    backend: str | None
    error: ErrorKind
    reason: Reason


class Oracle(Record):
    """How one oracle selects on one platform.

    ``withdrawn`` are backends and requests of other releases that this one does not have.
    """

    name: str
    assume: tuple[Assumption, ...]
    shortcuts: tuple[Step, ...]
    requests: Mapping[str, tuple[RequestCase, ...]]
    request_error: ErrorKind
    switches: tuple[Step, ...]
    priority: tuple[str, ...]
    adjust: tuple[Adjustment, ...]
    variants: Variants | None
    backends: Mapping[str, Backend]
    otherwise: Otherwise
    location: Location
    withdrawn: Mapping[str, Reason] = MappingProxyType({})

    def conditions(self) -> Iterator[Condition]:
        """Every condition that a selection may ask."""
        yield from (assumption.when for assumption in self.assume)
        yield from (step.when for step in (*self.shortcuts, *self.switches))
        yield from (adjustment.when for adjustment in self.adjust)
        yield from (case.when for cases in self.requests.values() for case in cases)
        own = [step.backend for step in (*self.shortcuts, *self.switches) if step.backend]
        for backend in (*self.backends.values(), *own):
            yield backend.requires
            for choice in backend.choices:
                yield choice.when
                yield choice.kernel.condition


class Requested(Record):
    """A backend asked for by name for one role of the model and one oracle (None: for all).

    ``key`` is how that is written, ``location`` where: a rule file, or an environment variable.
    """

    key: str
    role: str
    oracle: str | None
    backend: str
    location: Location

    def __str__(self) -> str:
        return f"{self.key}={self.backend} ({self.location.short})"

    def to_dict(self) -> dict[str, str]:
        """Plain form."""
        return {"for": self.key, "backend": self.backend, "at": str(self.location)}


class PlatformRules(Record):
    """Everything the tables say about one platform.

    ``fingerprint`` identifies the content of all files that were read; ``warnings`` are findings
    that do not keep the rules from being used. ``requested`` are requests by role and oracle.
    ``withdrawn`` are facts of other releases that this one does not have.
    """

    platform: str
    facts: Mapping[str, Fact]
    derived: tuple[Derived, ...]
    oracles: Mapping[str, Oracle]
    kernels: Mapping[str, Kernel]
    files: tuple[str, ...]
    fingerprint: str
    warnings: tuple[Problem, ...] = ()
    requested: Mapping[tuple[str, str | None], Requested] = MappingProxyType({})
    withdrawn: Mapping[str, Reason] = MappingProxyType({})
