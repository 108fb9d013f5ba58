"""The states that a selection goes through: an order of backends, backends asked, a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_rules.engine.selection import How, Result, adjusted
from moe_rules.language.rules import Adjustment, Assumed, Backend


@dataclass(frozen=True, slots=True)
class Ordering:
    """A selection that has an order of backends, and backends that even a request cannot have."""

    order: tuple[str, ...]
    withdrawn: frozenset[str] = frozenset()

    def without(self, names: Sequence[str]) -> Ordering:
        """The same with some backends out of the order."""
        return replace(self, order=tuple(name for name in self.order if name not in names))


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """A backend that is asked, with the facts that are assumed for it."""

    backend: Backend
    assumed: Assumed


@dataclass(frozen=True, slots=True)
class Asking:
    """A selection that asks backends one after the other; ``end`` if none serves."""

    servers: tuple[Server, ...]
    how: How
    end: Result


def adjust(adjustment: Adjustment, state: Ordering) -> Ordering:
    """The state once an adjustment has been applied."""
    return Ordering(*adjusted(adjustment, state.order, state.withdrawn))
