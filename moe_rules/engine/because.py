"""Why a backend was selected, in one line."""

from __future__ import annotations

from moe_rules.engine.explanation import Explanation
from moe_rules.files.problems import Location
from moe_rules.language.rules import Adjustment


def because(decision: Explanation) -> tuple[str, Location]:
    """Why this backend, in one line, and the place that says so."""
    reason = decision.reason
    ahead = _asked_in_vain(decision)
    parts = [f"{', '.join(ahead)} cannot serve the layer"] if ahead else []
    if reason is not None:
        text = {"requested": "asked for by name", "fallback": "nothing else serves"}
        parts.append(reason.text or text.get(decision.how, f"a {decision.how} says so"))
        return "; ".join(parts), reason.location
    change = _what_moved(decision)
    if change is not None:
        parts.append(change.reason.text or adjustment_in_words(change))
        return "; ".join(parts), change.reason.location
    parts.append("next in the order" if ahead else "first in the order, and it serves the layer")
    selected = next(c for c in decision.candidates if c.verdict == "selected")
    return "; ".join(parts), selected.location


def _asked_in_vain(decision: Explanation) -> tuple[str, ...]:
    """The backends of the order that were asked before the decision fell."""
    if decision.how == "fallback":
        return decision.order
    if decision.reason is not None:  # it fell before the order was asked
        return ()
    assert decision.backend is not None
    return decision.order[: decision.order.index(decision.backend)]


def _what_moved(decision: Explanation) -> Adjustment | None:
    """The last adjustment that put the selected backend ahead of one that stood before it."""
    backend, before = decision.backend, decision.priority
    if backend not in before:
        return None
    overtaken = set(before[: before.index(backend)])
    for change in reversed(decision.adjustments):
        raised = backend in change.names and change.action in ("first", "before")
        lowered = overtaken & set(change.names) and change.action not in ("first", "before")
        if raised or lowered:
            return change
    return None


def adjustment_in_words(change: Adjustment) -> str:
    """What an adjustment does: "last: A, B", "move A before B"."""
    names = ", ".join(change.names)
    if change.anchor is not None:
        return f"move {names} {change.action} {change.anchor}"
    return f"{change.action}: {names}"
