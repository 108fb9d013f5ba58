"""What can be taken out of an oracle: rules of its lists, and parts of conditions.

A clause is taken out of what it stands in: a mapping then asks for less, an ``any`` offers one
alternative less. What several rules share (a condition used by name, a kernel) is one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from moe_rules.files.problems import Location
from moe_rules.language.conditions import ALWAYS, All, Any, Clause, Condition, Implied, Not, all_of
from moe_rules.language.rules import (
    Adjustment,
    Assumption,
    Backend,
    Choice,
    Kernel,
    Oracle,
    RequestCase,
    Step,
)
from moe_rules.language.schemes import Schemes
from moe_rules.vocabulary.record import Record

Kind = Literal["assumption", "step", "request", "adjustment", "clause", "alternative", "scheme"]


class Part(Record):
    """A part of an oracle: ``number`` is its position in what stands at ``location``."""

    kind: Kind
    location: Location
    number: int = 0


class Holder(Record):
    """What has a condition: an assumption, another rule, or a backend or kernel."""

    kind: Literal["assumption", "rule", "kernel"]
    location: Location
    condition: Condition


def rules_of(oracle: Oracle) -> Iterator[tuple[Part, str]]:
    """The rules that the oracle's lists hold, and how each is called."""
    for assumption in oracle.assume:
        if assumption.values:
            yield Part("assumption", assumption.reason.location), "this assumption"
    for step in (*oracle.shortcuts, *oracle.switches):
        if step.action != "drop" or step.names:
            yield Part("step", step.reason.location), "this step"
    for word, cases in oracle.requests.items():
        for case in cases:
            yield Part("request", case.reason.location), f"this meaning of {word!r}"
    for adjustment in oracle.adjust:
        if adjustment.names:
            yield Part("adjustment", adjustment.reason.location), "this adjustment"


def holders(oracle: Oracle) -> Iterator[Holder]:
    """Every condition of an oracle, with the rule, the backend or the kernel that has it."""
    for assumption in oracle.assume:
        yield Holder("assumption", assumption.reason.location, assumption.when)
    for step in (*oracle.shortcuts, *oracle.switches):
        yield Holder("rule", step.reason.location, step.when)
        if step.backend is not None:
            yield from _of_backend(step.backend, step.reason.location)
    for cases in oracle.requests.values():
        for case in cases:
            yield Holder("rule", case.reason.location, case.when)
    for adjustment in oracle.adjust:
        yield Holder("rule", adjustment.reason.location, adjustment.when)
    for backend in oracle.backends.values():
        yield from _of_backend(backend, backend.location)


def _of_backend(backend: Backend, place: Location) -> Iterator[Holder]:
    yield Holder("kernel", place, backend.requires)
    for choice in backend.choices:
        yield Holder("kernel", place, choice.when)
        yield Holder("kernel", choice.kernel.location, choice.kernel.condition)


def parts_of(
    condition: Condition, inside: tuple[Part, ...] = ()
) -> Iterator[tuple[Part, str, tuple[Part, ...]]]:
    """The parts of a condition, each in words and with the parts that it is inside of."""
    match condition:
        case Clause(location=location) if not isinstance(condition, Implied):
            yield Part("clause", location), condition.words(), inside
        case All(parts):
            for part in parts:
                yield from parts_of(part, inside)
        case Not(part):
            yield from parts_of(part, inside)
        case Any(parts, location):
            for number, part in enumerate(parts):
                around = inside
                if not isinstance(part, Clause):
                    alternative = Part("alternative", location, number)
                    yield alternative, part.words(), inside
                    around = (*inside, alternative)
                yield from parts_of(part, around)
        case Schemes(schemes, location):
            for number, scheme in enumerate(schemes):
                around = inside
                if len(schemes) > 1:
                    yield Part("scheme", location, number), scheme.words(), inside
                    around = (*inside, Part("scheme", location, number))
                yield from parts_of(scheme.when, around)


def without(oracle: Oracle, part: Part) -> Oracle:
    """The oracle without a part."""
    if part.kind in ("clause", "alternative", "scheme"):
        return _Rewriter(lambda condition: _dropped(condition, part) or ALWAYS).oracle(oracle)

    def others(rules: tuple[RuleT, ...]) -> tuple[RuleT, ...]:
        return tuple(rule for rule in rules if rule.reason.location != part.location)

    return oracle.replaced(
        assume=others(oracle.assume),
        shortcuts=others(oracle.shortcuts),
        requests={word: others(cases) for word, cases in oracle.requests.items()},
        switches=others(oracle.switches),
        adjust=others(oracle.adjust),
    )


RuleT = TypeVar("RuleT", Assumption, Step, RequestCase, Adjustment)


def _dropped(condition: Condition, part: Part) -> Condition | None:
    """The condition without a part, itself if it has none such; None if nothing is left."""
    match condition:
        case Clause(location=location):
            return None if part.kind == "clause" and location == part.location else condition
        case Not(inner, location):
            left = _dropped(inner, part)
            if left is inner:
                return condition
            return None if left is None else Not(left, location)
        case All(parts):
            kept = [_dropped(one, part) for one in parts]
            if all(one is other for one, other in zip(kept, parts, strict=True)):
                return condition
            some = [one for one in kept if one is not None]
            return all_of(*some) if some else None
        case Any(parts, location):
            kept = [
                None if part == Part("alternative", location, number) else _dropped(one, part)
                for number, one in enumerate(parts)
            ]
            if all(one is other for one, other in zip(kept, parts, strict=True)):
                return condition
            some = [one for one in kept if one is not None]
            return Any(tuple(some), location) if some else None
        case Schemes(schemes, location):
            lines = tuple(
                scheme
                if (when := _dropped(scheme.when, part)) is scheme.when
                else scheme.replaced(when=when or ALWAYS)
                for number, scheme in enumerate(schemes)
                if part != Part("scheme", location, number)
            )
            if all(one is other for one, other in zip(lines, schemes, strict=False)):
                return condition if len(lines) == len(schemes) else Schemes(lines, location)
            return Schemes(lines, location)
    return condition


class _Rewriter:
    """Puts other conditions into an oracle. What does not change stays the same object."""

    def __init__(self, change: Callable[[Condition], Condition]) -> None:
        self.change = change
        self.backends: dict[int, Backend] = {}
        self.kernels: dict[int, Kernel] = {}

    def oracle(self, oracle: Oracle) -> Oracle:
        return oracle.replaced(
            assume=tuple(map(self._rule, oracle.assume)),
            shortcuts=tuple(map(self._step, oracle.shortcuts)),
            requests={
                word: tuple(map(self._case, cases)) for word, cases in oracle.requests.items()
            },
            switches=tuple(map(self._step, oracle.switches)),
            adjust=tuple(map(self._rule, oracle.adjust)),
            backends={name: self._backend(one) for name, one in oracle.backends.items()},
        )

    def _rule(self, rule: RuleT) -> RuleT:
        when = self.change(rule.when)
        return rule if when is rule.when else rule.replaced(when=when)

    def _step(self, step: Step) -> Step:
        step = self._rule(step)
        if step.backend is None:
            return step
        backend = self._backend(step.backend)
        return step if backend is step.backend else step.replaced(backend=backend)

    def _case(self, case: RequestCase) -> RequestCase:
        case = self._rule(case)
        backends = tuple(map(self._backend, case.backends))
        if all(one is other for one, other in zip(backends, case.backends, strict=True)):
            return case
        return case.replaced(backends=backends)

    def _backend(self, backend: Backend) -> Backend:
        found = self.backends.get(id(backend))
        if found is None:
            requires = self.change(backend.requires)
            choices = tuple(map(self._choice, backend.choices))
            same = requires is backend.requires and all(
                one is other for one, other in zip(choices, backend.choices, strict=True)
            )
            found = backend if same else backend.replaced(requires=requires, choices=choices)
            self.backends[id(backend)] = found
        return found

    def _choice(self, choice: Choice) -> Choice:
        kernel, when = self._kernel(choice.kernel), self.change(choice.when)
        if kernel is choice.kernel and when is choice.when:
            return choice
        return Choice(kernel, when)

    def _kernel(self, kernel: Kernel) -> Kernel:
        found = self.kernels.get(id(kernel))
        if found is None:
            condition = self.change(kernel.condition)
            same = condition is kernel.condition
            found = kernel if same else kernel.replaced(condition=condition)
            self.kernels[id(kernel)] = found
        return found
