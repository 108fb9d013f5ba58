"""The nearest valid name for one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of ``names``, or None if none resembles it."""
    found = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return found[0] if found else None


def unknown_name(what: str, name: str, names: Iterable[str]) -> str:
    """A sentence for an unknown name, with the nearest one that is known."""
    close = nearest(name, names)
    return f"unknown {what} {name!r}" + (f"; did you mean {close!r}?" if close else "")
