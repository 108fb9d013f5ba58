"""Families of backends, by which the page colours them: ``families.json``, words of their names."""

from __future__ import annotations

import functools
import json

from moe_rules.reporting.report.page import FOLDER

OTHER = "Other"
"""The family of backends whose names have none of the words."""


@functools.cache
def families() -> dict[str, list[str]]:
    """The words of each family's names, those first that decide where a name has several."""
    found: dict[str, list[str]] = json.loads((FOLDER / "families.json").read_text(encoding="utf-8"))
    return found


def family_of(backend: str) -> str:
    """The family of a backend."""
    words = backend.split("_")
    return next((name for name, own in families().items() if set(own) & set(words)), OTHER)
