"""The conditions of the model tables: a mapping from names to expected values, all of which hold.

A name is a dotted path into a :class:`Context`, such as ``weights.num_bits`` or
``platform.device``. What is absent is null. An expected value is a scalar, a list (any of them), or
operators that all hold: ``{not: value}``, ``{at_least: number}``, ``{above: number}``,
``{below: number}``, ``{contains: text}``, ``{starts_with: text}``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from moe_rules.models.typed import ABSENT, number, read

Scalar = str | int | float | bool | None
Conditions = Mapping[str, Any]


def equal(value: Any, expected: Any) -> bool:
    """Equality that does not confuse true with 1, as Python does."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    return bool(value == expected)


def any_of(value: Any, expected: Any) -> bool:
    """``value`` equals ``expected``, or one of them if it is a list."""
    if isinstance(expected, list):
        return any(equal(value, one) for one in expected)
    return equal(value, expected)


def _contains(value: Any, text: Any) -> bool:
    return isinstance(value, str | list) and text in value


def _starts_with(value: Any, text: Any) -> bool:
    return isinstance(value, str) and value.startswith(text)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "not": lambda value, expected: not any_of(value, expected),
    "contains": _contains,
    "starts_with": _starts_with,
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "below": operator.lt,
}
"""Operators for numbers; null satisfies none."""


class Context:
    """Named values that conditions and sources may ask for, looked up by dotted path.

    ``groups`` are the first components (``platform``, ``deployment``, ``layer``, ...). A path that
    starts with none of them is looked up in ``default``. Mappings are descended by key, lists by
    index; ``default`` may be any object with a ``get``.
    """

    __slots__ = ("default", "groups")

    def __init__(self, default: Any, **groups: Any) -> None:
        self.default = default
        self.groups = groups

    def has(self, path: str) -> bool:
        """Whether the path leads anywhere, be it to null."""
        head, _, rest = path.partition(".")
        if rest and head in self.groups:
            return descend(self.groups[head], rest, ABSENT) is not ABSENT
        return descend(self.default, path, ABSENT) is not ABSENT

    def over(self, fields: Mapping[str, Any], place: str) -> Context:
        """The same context in which these fields stand before those of the default."""
        return Context(_Overlaid(fields, place, self), **self.groups)

    def extended(self, **groups: Any) -> Context:
        """The same context with further groups."""
        return Context(self.default, **{**self.groups, **groups})

    def where(self, path: str) -> str:
        """The place of what the path leads to in the checkpoint's files."""
        head, _, rest = path.partition(".")
        owner, inner = (self.groups[head], rest) if head in self.groups else (self.default, path)
        where = getattr(owner, "where", None)
        return path if where is None else str(where(inner))

    def __getitem__(self, path: str) -> Any:
        head, _, rest = path.partition(".")
        if rest and head in self.groups:
            return descend(self.groups[head], rest)
        return descend(self.default, path)


class _Overlaid:
    """Fields of a place of their own before those of a context."""

    __slots__ = ("fields", "place", "under")

    def __init__(self, fields: Mapping[str, Any], place: str, under: Context) -> None:
        self.fields = fields
        self.place = place
        self.under = under

    def get(self, name: str, absent: Any = None) -> Any:
        if name in self.fields:
            return self.fields[name]
        return descend(self.under.default, name, absent)

    def where(self, path: str) -> str:
        own = path.partition(".")[0] in self.fields
        return self.under.where(f"{self.place}.{path}" if own else path)


def descend(value: Any, path: str, absent: Any = None) -> Any:
    """The value at a dotted path, or ``absent`` where the path leads nowhere."""
    for part in path.split("."):
        if isinstance(value, list):
            value = value[int(part)] if part.isdigit() and int(part) < len(value) else absent
        else:
            get = getattr(value, "get", None)
            if get is None:
                return absent
            value = get(part, absent)
        if value is absent:
            return absent
    return value


def passes(value: Any, expected: Any, where: str) -> bool:
    """Whether a value is the expected one, one of them, or satisfies every operator.

    Raises ConfigValueError for a value at the place ``where`` that is compared and no number.
    """
    if not isinstance(expected, Mapping):
        return any_of(value, expected)
    return all(_satisfies(value, op, bound, where) for op, bound in expected.items())


def _satisfies(value: Any, op: str, bound: Any, where: str) -> bool:
    if op in COMPARISONS:
        return value is not None and COMPARISONS[op](read(number, value, where), bound)
    return OPERATORS[op](value, bound)


def holds(conditions: Conditions, context: Context) -> bool:
    """Whether every condition holds in the context (an empty mapping always does)."""
    for name, expected in conditions.items():
        value = context[name]
        if not isinstance(expected, Mapping):
            if not any_of(value, expected):
                return False
        else:  # where a value stands is asked for only where it has to be a number
            compared = not COMPARISONS.keys().isdisjoint(expected)
            if not passes(value, expected, context.where(name) if compared else name):
                return False
    return True
