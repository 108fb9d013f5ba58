"""Adjustments that contradict each other: under the same condition, but in opposite directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moe_rules.files.problems import Problem
from moe_rules.language.rules import Adjustment

_OPPOSITE = {"first": "last", "last": "first"}


def contradictions(adjustments: Sequence[Adjustment]) -> Iterator[Problem]:
    """Problems of adjustments that undo or encircle earlier ones under the same condition."""
    ahead_of: dict[str, dict[str, set[str]]] = {}
    for i, adjustment in enumerate(adjustments):
        yield from _undone(adjustment, adjustments[:i])
        yield from _circle(adjustment, ahead_of.setdefault(adjustment.when.words(), {}))


def _undone(adjustment: Adjustment, earlier: Sequence[Adjustment]) -> Iterator[Problem]:
    opposite = _OPPOSITE.get(adjustment.action)
    when = adjustment.when.words()
    for other in earlier:
        both = set(adjustment.names) & set(other.names)
        if both and other.action == opposite and other.when.words() == when:
            yield Problem(
                "contradictory-adjustment",
                f"{min(both)!r} goes {adjustment.action} here and {other.action} at "
                f"line {other.reason.location.line}, under the same condition",
                adjustment.reason.location,
            )


def _circle(adjustment: Adjustment, ahead_of: dict[str, set[str]]) -> Iterator[Problem]:
    """Follow what earlier moves put behind a backend; ``ahead_of`` grows by this one."""
    if adjustment.anchor is None:
        return
    ahead, behind = adjustment.names[0], adjustment.anchor
    if adjustment.action == "after":
        ahead, behind = behind, ahead
    seen, todo = set[str](), [behind]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(ahead_of.get(name, ()))
    if ahead in seen:
        yield Problem(
            "cyclic-adjustment",
            f"{ahead!r} ahead of {behind!r} contradicts the adjustments before it, "
            "under the same condition",
            adjustment.reason.location,
        )
    ahead_of.setdefault(ahead, set()).add(behind)
