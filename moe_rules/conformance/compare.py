"""Compares one recorded case with our decision: outcome, every kernel's answer, and the order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from moe_rules.conformance.cases import Case, Expected, Failed, Selected
from moe_rules.conformance.compiled import Answers, CompiledOracle, compiled_oracles
from moe_rules.engine.decision import Decision
from moe_rules.engine.plan import with_assumed
from moe_rules.engine.selection import Result
from moe_rules.language.rules import Backend, Kernel, PlatformRules
from moe_rules.selectors.errors import ERRORS
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactError, FactValue, SwitchError

MAX_VERDICTS = 1 << 18
"""Verdicts that are kept, of answers beside what is recorded."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one case compares: True agrees, False does not, None is not compared."""

    decision: bool | None
    candidates: bool | None
    order: bool | None
    notes: tuple[str, ...] = ()


class Ours(NamedTuple):
    """What we say of a case.

    ``declared`` are the oracle's backends, ``takes`` says whether a backend's kernel would serve.
    """

    result: Result
    order: tuple[str, ...]
    declared: Container[str]
    takes: Callable[[str | None, str | None], bool]


class Comparer:
    """Decides recorded cases with the rules of their platforms, by name.

    Oracles are compiled; the rules themselves are gone through for what the compiled ones do not
    know (switches that cannot be read, facts that are missing), and to explain. Every case is
    decided by its own facts. What is not done again is to compare the same answers with the same
    record.
    """

    def __init__(self, rules: Mapping[str, PlatformRules]) -> None:
        self.rules = rules
        self._selectors: dict[tuple[Any, ...], Selector] = {}
        self._compiled: dict[str, dict[str, CompiledOracle]] = {}
        self._verdicts: dict[tuple[Answers, Expected], Verdict] = {}

    def selector(self, facts: Mapping[str, FactValue]) -> Selector:
        """The selector of a case's constants; software differs by case."""
        key = tuple(facts.items())
        selector = self._selectors.get(key)
        if selector is None:
            device = str(facts["device"])
            rules = self.rules.get(device)
            if rules is None:
                known = ", ".join(self.rules)
                raise FactError(f"there are no rules of device {device!r} (known: {known})")
            selector = self._selectors[key] = Selector(rules, facts, unknown=())
        return selector

    def decide(self, case: Case) -> Decision:
        """Our decision of a case. Raises FactError for a device or an oracle without a table."""
        return self.selector(case.constants).decide(case.oracle, case.request)

    def compare(self, case: Case) -> Verdict:
        """Compare one case. A crash of ours disagrees, whatever the reference did."""
        compiled = self.compiled(case)
        if compiled is not None:
            try:
                answers = compiled.answers(case.parts)
            except (LookupError, TypeError):  # facts that are missing, or of odd values
                return self._interpreted(case)
            verdict = self._verdicts.get((answers, case.expect))
            return verdict or self._verdict(case, answers)
        return self._interpreted(case)

    def _verdict(self, case: Case, answers: Answers) -> Verdict:
        """What compiled rules say beside what is recorded."""
        declared = self.rules[str(case.parts.platform["device"])].oracles[case.oracle].backends
        ours = Ours(answers.result, answers.order, declared, answers.takes)
        if not answers.possible:  # why not depends on more facts
            return _verdict(case.expect, ours, list(_impossible(case)))
        if len(self._verdicts) >= MAX_VERDICTS:
            self._verdicts.clear()
        verdict = self._verdicts[answers, case.expect] = _verdict(case.expect, ours, [])
        return verdict

    def compiled(self, case: Case) -> CompiledOracle | None:
        """The compiled oracle of a case; None where its switches cannot be read, or no rules."""
        if case.unreadable:
            return None
        device = str(case.parts.platform["device"])
        oracles = self._compiled.get(device)
        if oracles is None:
            rules = self.rules.get(device)
            oracles = self._compiled[device] = {} if rules is None else compiled_oracles(rules)
        return oracles.get(case.oracle)

    def _interpreted(self, case: Case) -> Verdict:
        """Compare one case by going through the rules."""
        crashed = case.reference_crashed
        try:
            decision = self.decide(case)
        except SwitchError as error:
            expect = case.expect
            agrees = isinstance(expect, Failed) and expect.error_type == "ValueError"
            notes = () if agrees or crashed else (str(error),)
            return Verdict(None if crashed else agrees, None, None, notes)
        except FactError as error:
            return Verdict(None if crashed else False, False, False, (str(error),))
        except Exception as error:
            return Verdict(False, False, False, (f"ours crashed: {error!r}",))
        declared = decision.declared_backends
        ours = Ours(decision.result, decision.order, declared, functools.partial(takes, decision))
        return _verdict(case.expect, ours, list(_impossible(case)))

    def explanation(self, case: Case) -> tuple[str, ...]:
        """Our decision of a case in lines: the answer, the order, and every candidate."""
        try:
            decision = self.decide(case)
        except Exception as error:
            return (str(error) or repr(error),)
        answer = "refused" if decision.failed else f"{decision.backend} / {decision.kernel}"
        lines = [f"{answer} ({decision.how}), order {', '.join(decision.order) or 'none'}"]
        if decision.reason is not None:
            lines.append(f"by {decision.reason.location}: {decision.reason.text or ''}")
        for candidate in decision.candidates:
            lines.append(f"{candidate.backend} / {candidate.kernel}: {candidate.verdict}")
            lines += [f"  {failure} ({failure.location.short})" for failure in candidate.failures]
        return tuple(lines)


def _verdict(expect: Expected, ours: Ours, notes: list[str]) -> Verdict:
    """What we say beside what is recorded; ``notes`` say why there can be no such case."""
    possible = not notes
    agrees = None
    if not expect.crashed:
        agrees = agrees_with(expect, ours.result, notes) and possible
    candidates = _candidates(expect, ours, notes)
    return Verdict(agrees, candidates, _order(expect, ours, notes), tuple(notes))


def _candidates(expect: Expected, ours: Ours, notes: list[str]) -> bool:
    agree, takes = True, ours.takes
    for answer in (*expect.tried, *expect.not_reached):
        wanted = answer.supported
        if wanted is None or wanted is takes(answer.backend, answer.kernel):
            continue
        agree = False
        reference, own = ("supports", "refuses") if wanted else ("refuses", "supports")
        reason = f" ({answer.reason})" if answer.reason else ""
        notes.append(
            f"candidate {answer.backend}/{answer.kernel}: reference {reference}{reason}, ours {own}"
        )
    return agree


def _order(expect: Expected, ours: Ours, notes: list[str]) -> bool | None:
    if expect.priority is None:
        return None
    declared = ours.declared
    theirs = [name for name in expect.priority if name in declared]
    if theirs == list(ours.order):
        return True
    notes.append(f"order: reference {theirs}, ours {list(ours.order)}")
    return False


def takes(decision: Decision, backend: str | None, kernel: str | None) -> bool:
    """Whether our table lets the asked class (or, without one, the backend) serve."""
    facts = decision.facts
    asked = [p for p in decision._outcome.attempts if backend in (None, p.backend.name)]
    for plan in asked:
        found = _kernel_of(plan.backend, kernel)
        if found is not None:
            return found.condition.holds(with_assumed(facts, plan.assumed)) is not False
    declared = decision.declared_backends.get(backend or "")
    if declared is None:
        return False
    facts = with_assumed(facts, declared.assume)
    if kernel is None:
        return declared.requires.holds(facts) is not False
    found = _kernel_of(declared, kernel)
    return found is not None and found.condition.holds(facts) is not False


def _impossible(case: Case) -> Iterator[str]:
    """Why there should be no such deployment, where there is one."""
    from moe_rules.analysis.worlds import packaged_worlds

    facts = case.facts
    for one in packaged_worlds().impossible:
        if not one.simulated and one.when.holds(facts) is True:
            reason = one.reason
            yield f"recorded, though impossible ({reason.location}): {reason.text}"


_RAISED = {
    kind: frozenset(base.__name__ for base in error.__mro__) for kind, error in ERRORS.items()
}
"""The names of what an error of ours is to the reference's callers."""


def agrees_with(expect: Expected, ours: Result, notes: list[str]) -> bool:
    """Whether a result is the recorded one; if not, there is a note."""
    if isinstance(expect, Selected):
        if (ours.backend, ours.kernel) == (expect.backend, expect.kernel):
            return True
        words = f"{expect.backend}/{expect.kernel}"
    elif ours.error is not None:
        if expect.error_type in _RAISED[ours.error]:
            return True
        words = expect.error_type
    else:
        words = f"{expect.error_type} ({expect.error_message})"
    said = ours.error or f"{ours.backend}/{ours.kernel}"
    notes.append(f"decision: reference {words}, ours {said}")
    return False


def reference_explanation(expect: Expected) -> tuple[str, ...]:
    """What the reference came to, in lines, with its own reasons."""
    if isinstance(expect, Selected):
        lines = [f"{expect.backend} / {expect.kernel}"]
    else:
        lines = [f"{expect.error_type}: {expect.error_message}"]
    if expect.priority is not None:
        lines[0] += f", order {', '.join(expect.priority)}"
    for answer in (*expect.tried, *expect.not_reached):
        verdict = {True: "supported", False: "refused", None: "not asked"}[answer.supported]
        reason = f": {answer.reason}" if answer.reason else ""
        lines.append(f"{answer.backend} / {answer.kernel}: {verdict}{reason}")
    return tuple(lines)


def _kernel_of(backend: Backend, class_name: str | None) -> Kernel | None:
    for choice in backend.choices:
        if choice.kernel.class_name == class_name:
            return choice.kernel
    return None
