"""Decisions by the number of tokens of a call, where rules tell calls apart.

Rules compare per-call facts with numbers only, so the calls fall into finitely many ranges, and
one decision serves each. A bound kernel dispatches on the range without asking the rules again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from moe_rules.engine.decision import Decision
from moe_rules.language.fact_tests import Compare
from moe_rules.language.rules import PlatformRules
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.record import Record


def _following(bound: float) -> int:
    return math.floor(bound) + 1


_NEXT: dict[str, Callable[[float], int]] = {
    ">=": math.ceil,
    "<": math.ceil,
    ">": _following,
    "<=": _following,
}
"""Where the range behind a compared number begins."""


class TokenRange(Record):
    """Calls with ``first`` to ``last`` tokens (None: without end), and what serves them."""

    first: int
    last: int | None
    decision: Decision

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "first": self.first,
            "last": self.last,
            "backend": self.decision.backend,
            "kernel": self.decision.kernel,
        }

    def __contains__(self, num_tokens: int) -> bool:
        return self.first <= num_tokens and (self.last is None or num_tokens <= self.last)


def decide_by_num_tokens(
    selector: Selector, oracle: str, facts: Mapping[str, FactValue], fact: str = "num_tokens"
) -> tuple[TokenRange, ...]:
    """The decisions of all calls, adjacent ranges with the same kernel joined.

    Raises FactError as :meth:`Selector.decide`.
    """
    starts = sorted({1, *boundaries(selector.rules, oracle, fact)})
    ranges: list[TokenRange] = []
    for i, first in enumerate(starts):
        last = starts[i + 1] - 1 if i + 1 < len(starts) else None
        decision = selector.decide(oracle, {**facts, fact: first})
        before = ranges[-1] if ranges else None
        if before is not None and _same(before.decision, decision):
            ranges[-1] = TokenRange(before.first, last, before.decision)
        else:
            ranges.append(TokenRange(first, last, decision))
    return tuple(ranges)


def _same(one: Decision, other: Decision) -> bool:
    return (one.backend, one.kernel, one.failed) == (other.backend, other.kernel, other.failed)


def boundaries(rules: PlatformRules, oracle: str, fact: str = "num_tokens") -> Iterator[int]:
    """Numbers of tokens at which some clause changes its mind; none for no oracle of the rules."""
    if oracle not in rules.oracles:
        return
    derived = (when for one in rules.derived for when, _ in one.cases)
    for condition in (*rules.oracles[oracle].conditions(), *derived):
        for clause in condition.clauses():
            if clause.fact == fact and isinstance(clause.test, Compare):
                for sign, bound in clause.test.bounds:
                    assert isinstance(bound, int | float)
                    if (start := _NEXT[sign](bound)) > 1:
                        yield start
