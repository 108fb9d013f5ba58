"""What would have to change about a question, as three commands say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_rules.analysis.nearest import Change
    from moe_rules.cli.deployment import Asked, Question

Ways = list[tuple["Change", ...]]


def least_changes(asked: Asked, question: Question, backend: str | None = None) -> Ways:
    """The least changes after which a backend is selected, or any at all."""
    from moe_rules.analysis.nearest import nearest

    assert question.oracle is not None
    facts, _ = asked.selector.supplied(question.oracle, question.facts)
    # The user's request is what the facts say; those of rule files would take its place.
    rules = asked.selector.rules.replaced(requested={})
    if backend is None:
        return nearest(rules, question.oracle, facts, lambda result: result.error is None)
    return nearest(rules, question.oracle, facts, lambda result: result.backend == backend)


def in_words(ways: Ways) -> list[str]:
    """A line for each way, with what the user cannot change said to be so."""
    lines = []
    for changes in ways:
        line = "; ".join(map(str, changes))
        fixed = [change.fact for change in changes if change.fixed]
        lines.append(f"{line}  (not yours to change: {', '.join(fixed)})" if fixed else line)
    return lines
