"""Facts and conditions as diagrams: of a fact's value, and of whether a condition holds."""

from __future__ import annotations

from moe_rules.analysis.classes import Space
from moe_rules.analysis.diagram import Node
from moe_rules.analysis.questions import answer
from moe_rules.language.conditions import All, Any, Clause, Condition, Constant, Not
from moe_rules.language.fact_tests import FactTest
from moe_rules.language.rules import Assumed, ValueOf
from moe_rules.language.schemes import Schemes

Facts = dict[str, Node]
"""The diagram of each fact's value; of the deployment's own where a fact is absent."""


class Conditions:
    """Facts and conditions of one rule set as diagrams."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.diagrams = space.diagrams
        self._answers: dict[tuple[FactTest, tuple[Node, ...]], Node] = {}

    def value(self, name: str, facts: Facts) -> Node:
        """The diagram of a fact's value."""
        found = facts.get(name)
        if found is None:
            found = facts[name] = self.space.value(name)
        return found

    def holds(self, condition: Condition, facts: Facts) -> Node:
        """The diagram of a condition: True, False, or None where it is open."""
        match condition:
            case Constant():
                return self.diagrams.leaf(condition.value)
            case Clause():
                return self._answer(condition.fact, condition.test, facts)
            case All():
                return self.diagrams.every([self.holds(part, facts) for part in condition.parts])
            case Any():
                parts = [self.diagrams.opposite(self.holds(p, facts)) for p in condition.parts]
                return self.diagrams.opposite(self.diagrams.every(parts))
            case Not():
                return self.diagrams.opposite(self.holds(condition.part, facts))
            case Schemes():
                return self.holds(condition.spelled_out(), facts)
        raise TypeError(f"{type(condition).__name__} is no condition")

    def _answer(self, fact: str, test: FactTest, facts: Facts) -> Node:
        values = tuple(self.value(name, facts) for name in (fact, *test.facts()))
        found = self._answers.get((test, values))
        if found is None:
            found = self.diagrams.apply(lambda *seen: answer(test, *seen), *values)
            self._answers[test, values] = found
        return found

    def applies(self, condition: Condition, facts: Facts) -> Node:
        """Where a condition holds."""
        return self.diagrams.holds(self.holds(condition, facts))

    def permits(self, condition: Condition, facts: Facts) -> Node:
        """Where a condition does not fail."""
        return self.diagrams.does_not_fail(self.holds(condition, facts))

    def assuming(self, assumed: Assumed, facts: Facts) -> Facts:
        """The facts with some of them assumed."""
        fixed = {n: self.diagrams.leaf(v) for n, v in assumed if not isinstance(v, ValueOf)}
        copied = {n: self.value(v.fact, facts) for n, v in assumed if isinstance(v, ValueOf)}
        return {**facts, **fixed, **copied}
