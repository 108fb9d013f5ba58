"""Compares one recorded case with our decision: outcome, every kernel's answer, and the order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.conformance.cases import Verdict, platform_facts, request_facts
from moe_rules.engine.decision import Decision
from moe_rules.engine.plan import FactMap
from moe_rules.engine.selector import ERRORS, Selector
from moe_rules.facts import FactError
from moe_rules.language.rules import Backend, Kernel, ValueOf

DECISION_ERRORS = ("ValueError", "NotImplementedError")
"""Errors by which the reference refuses; any other type is a crash of its own."""


class Comparer:
    """Decides recorded cases with the rules of their platforms."""

    def __init__(self, selectors: Mapping[str, Selector]) -> None:
        self.selectors = dict(selectors)
        self._by_platform: dict[tuple[Any, ...], Selector] = {}

    def selector(self, facts: FactMap) -> Selector:
        """The selector of a platform, specialised to its facts; software differs by case."""
        key = tuple(facts.items())
        selector = self._by_platform.get(key)
        if selector is None:
            rules = self.selectors[str(facts["device"])].rules
            selector = self._by_platform[key] = Selector(rules, facts, unknown=())
        return selector

    def decide(self, case: Mapping[str, Any]) -> Decision:
        """Our decision of a case. Raises FactError for an oracle without a table."""
        selector = self.selector(platform_facts(case["platform"]))
        return selector.decide(case["oracle"], request_facts(case))

    def compare(self, case: Mapping[str, Any]) -> Verdict:
        """Compare one case."""
        expect = case["expect"]
        crashed = expect["outcome"] == "error" and expect["error_type"] not in DECISION_ERRORS
        try:
            decision = self.decide(case)
        except FactError as error:
            return Verdict(None if crashed else False, False, False, crashed, (str(error),))
        notes: list[str] = []
        agrees = None if crashed else self._decision(decision, expect, notes)
        candidates = self._candidates(decision, expect, notes)
        order = self._order(decision, expect, notes)
        return Verdict(agrees, candidates, order, crashed, tuple(notes))

    def _decision(self, decision: Decision, expect: Mapping[str, Any], notes: list[str]) -> bool:
        if expect["outcome"] == "selected":
            wanted = (expect["backend"], expect["kernel"])
            if (decision.backend, decision.kernel) == wanted:
                return True
            ours = "an error" if decision.failed else f"{decision.backend}/{decision.kernel}"
            notes.append(f"decision: reference {wanted[0]}/{wanted[1]}, ours {ours}")
            return False
        refusal = decision._outcome.refusal
        if refusal is not None:
            bases = {base.__name__ for base in ERRORS[refusal.kind].__mro__}
            if expect["error_type"] in bases:
                return True
            notes.append(f"decision: reference {expect['error_type']}, ours {refusal.kind}")
            return False
        notes.append(
            f"decision: reference {expect['error_type']} ({expect['error_message']}), "
            f"ours {decision.backend}/{decision.kernel}"
        )
        return False

    def _candidates(self, decision: Decision, expect: Mapping[str, Any], notes: list[str]) -> bool:
        agree = True
        for answer in (*expect["tried"], *expect["not_reached"]):
            wanted = answer["supported"]
            if wanted is None:
                continue
            ours = self._supported(decision, answer)
            if ours != wanted:
                agree = False
                reason = answer.get("reason", "")
                notes.append(
                    f"candidate {answer['backend']}/{answer['kernel']}: reference "
                    f"{'supports' if wanted else 'refuses'}, ours {'supports' if ours else 'refuses'}"
                    f"{f' ({reason})' if reason else ''}"
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
                return kernel.condition.holds(_with(facts, plan.assumed)) is not False
        if declared is None:
            return False
        facts = _with(facts, declared.assume)
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


def _kernel_of(backend: Backend, class_name: str | None) -> Kernel | None:
    for choice in backend.choices:
        if choice.kernel.class_name == class_name:
            return choice.kernel
    return None


def _with(facts: FactMap, assumed: Any) -> FactMap:
    copy = dict(facts)
    for name, value in assumed:
        copy[name] = facts[value.fact] if isinstance(value, ValueOf) else value
    return copy
