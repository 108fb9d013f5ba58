"""What one of vLLM's selectors comes to, and whether the tables come to the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moe_rules.conformance.cases import REFUSALS
from moe_rules.engine.decision import Decision
from moe_rules.selectors.errors import refusal

Selected = tuple[Any, type | None]
"""A member of vLLM's Enum and a kernel class; no class where the platform's own code takes over."""
Select = Callable[..., Selected]
Outcome = Selected | Exception
"""What a selector returned or raised."""


def outcome_names(outcome: Outcome) -> tuple[str, ...]:
    """The names of backend and class, or that of the error's type."""
    if isinstance(outcome, Exception):
        return (type(outcome).__name__,)
    backend, kernel = outcome
    return (backend.name,) if kernel is None else (backend.name, kernel.__name__)


def crashed(outcome: Outcome) -> bool:
    """Whether a selector ended with an error that is no refusal."""
    return isinstance(outcome, Exception) and type(outcome).__name__ not in REFUSALS


def agree(decision: Decision, outcome: Outcome) -> bool:
    """Whether the tables come to what vLLM came to: names, or the type of its error."""
    if isinstance(outcome, Exception):
        return decision.failed and isinstance(refusal(decision), type(outcome))
    return not decision.failed and decision_names(decision) == outcome_names(outcome)


def decision_names(decision: Decision) -> tuple[str, ...]:
    """The names of what the tables select, as :func:`outcome_names` gives them."""
    if decision.backend is None:
        return (type(refusal(decision)).__name__,)
    return (decision.backend,) if decision.kernel is None else (decision.backend, decision.kernel)
