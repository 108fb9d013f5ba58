"""The nearest valid name for one that is not known."""

from __future__ import annotations

from collections.abc import Iterable

from moe_rules.vocabulary.fact_values import did_you_mean


def unknown_name(what: str, name: str, names: Iterable[str]) -> str:
    """A sentence for an unknown name, with the nearest one that is known."""
    return f"unknown {what} {name!r}{did_you_mean(name, names)}"
