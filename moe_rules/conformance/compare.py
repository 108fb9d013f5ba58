"""Compares one recorded case with our decision: outcome, every kernel's answer, and the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_rules.conformance.cases import Case
from moe_rules.engine.decision import Decision
from moe_rules.engine.plan import with_assumed
from moe_rules.language.rules import Backend, Kernel
from moe_rules.selectors.selector import ERRORS, Selector
from moe_rules.vocabulary.fact_values import FactError, FactValue, SwitchError


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one case compares: True agrees, False does not, None is not compared."""

    decision: bool | None
    candidates: bool | None
    order: bool | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided: a backend with its kernel's class, or a kind of error."""

    backend: str | None
    kernel: str | None
    error: str | None

    def __str__(self) -> str:
        return self.error or f"{self.backend}/{self.kernel}"


class Comparer:
    """Decides recorded cases with the rules of their platforms."""

    def __init__(self, selectors: Mapping[str, Selector]) -> None:
        self.selectors = dict(selectors)
        self._by_platform: dict[tuple[Any, ...], Selector] = {}

    def selector(self, facts: Mapping[str, FactValue]) -> Selector:
        """The selector of a case's constants; software differs by case."""
        key = tuple(facts.items())
        selector = self._by_platform.get(key)
        if selector is None:
            rules = self.selectors[str(facts["device"])].rules
            selector = self._by_platform[key] = Selector(rules, facts, unknown=())
        return selector

    def decide(self, case: Case) -> Decision:
        """Our decision of a case. Raises FactError for an oracle without a table."""
        return self.selector(case.constants).decide(case.oracle, case.request)

    def compare(self, case: Case) -> Verdict:
        """Compare one case. A crash of ours disagrees, whatever the reference did."""
        expect, crashed = case.expect, case.reference_crashed
        try:
            decision = self.decide(case)
        except SwitchError as error:
            agrees = None if crashed else expect.get("error_type") == "ValueError"
            return Verdict(agrees, None, None, (str(error),) if agrees is False else ())
        except FactError as error:
            return Verdict(None if crashed else False, False, False, (str(error),))
        except Exception as error:
            return Verdict(False, False, False, (f"ours crashed: {error!r}",))
        notes: list[str] = []
        answer = Answer(decision.backend, decision.kernel, decision.result.error)
        agrees = None if crashed else agrees_with(expect, answer, notes)
        candidates = self._candidates(decision, expect, notes)
        order = self._order(decision, expect, notes)
        return Verdict(agrees, candidates, order, tuple(notes))

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

    def _candidates(self, decision: Decision, expect: Mapping[str, Any], notes: list[str]) -> bool:
        agree = True
        for answer in (*expect["tried"], *expect["not_reached"]):
            wanted = answer["supported"]
            if wanted is None:
                continue
            ours = self._supported(decision, answer)
            if ours != wanted:
                agree = False
                reference, own = (("refuses", "supports")[said] for said in (wanted, ours))
                reason = f" ({answer['reason']})" if answer.get("reason") else ""
                notes.append(
                    f"candidate {answer['backend']}/{answer['kernel']}: "
                    f"reference {reference}{reason}, ours {own}"
                )
        return agree

    def _supported(self, decision: Decision, answer: Mapping[str, Any]) -> bool:
        """Whether our table lets the asked class (or, without one, the backend) serve."""
        facts = decision.facts
        name = answer["backend"]
        asked = [p for p in decision._outcome.attempts if name in (None, p.backend.name)]
        declared = decision.declared_backends.get(name)
        for plan in asked:
            kernel = _kernel_of(plan.backend, answer["kernel"])
            if kernel is not None:
                return kernel.condition.holds(with_assumed(facts, plan.assumed)) is not False
        if declared is None:
            return False
        facts = with_assumed(facts, declared.assume)
        if answer["kernel"] is None:
            return declared.requires.holds(facts) is not False
        kernel = _kernel_of(declared, answer["kernel"])
        return kernel is not None and kernel.condition.holds(facts) is not False

    def _order(
        self, decision: Decision, expect: Mapping[str, Any], notes: list[str]
    ) -> bool | None:
        if expect["priority"] is None:
            return None
        listed = set(decision.declared_backends)
        theirs = [name for name in expect["priority"] if name in listed]
        ours = list(decision.order)
        if ours == theirs:
            return True
        notes.append(f"order: reference {theirs}, ours {ours}")
        return False


def agrees_with(expect: Mapping[str, Any], ours: Answer, notes: list[str]) -> bool:
    """Whether an answer is the recorded one; if not, there is a note."""
    if expect["outcome"] == "selected":
        if (ours.backend, ours.kernel) == (expect["backend"], expect["kernel"]):
            return True
        words = f"{expect['backend']}/{expect['kernel']}"
    elif ours.error is not None:
        if expect["error_type"] in {base.__name__ for base in ERRORS[ours.error].__mro__}:
            return True
        words = expect["error_type"]
    else:
        words = f"{expect['error_type']} ({expect['error_message']})"
    notes.append(f"decision: reference {words}, ours {ours}")
    return False


def reference_explanation(expect: Mapping[str, Any]) -> tuple[str, ...]:
    """What the reference came to, in lines, with its own reasons."""
    if expect["outcome"] == "selected":
        lines = [f"{expect['backend']} / {expect['kernel']}"]
    else:
        lines = [f"{expect['error_type']}: {expect['error_message']}"]
    if expect["priority"] is not None:
        lines[0] += f", order {', '.join(expect['priority'])}"
    for answer in (*expect["tried"], *expect["not_reached"]):
        verdict = {True: "supported", False: "refused", None: "not asked"}[answer["supported"]]
        reason = answer.get("reason")
        lines.append(
            f"{answer['backend']} / {answer['kernel']}: {verdict}{f': {reason}' if reason else ''}"
        )
    return tuple(lines)


def _kernel_of(backend: Backend, class_name: str | None) -> Kernel | None:
    for choice in backend.choices:
        if choice.kernel.class_name == class_name:
            return choice.kernel
    return None
