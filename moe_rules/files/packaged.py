"""Where the packaged tables are: in an installed wheel, or in a checkout."""

from __future__ import annotations

from pathlib import Path

SHARED = "shared"
"""The folder of a rule set that has files of several platforms."""
_PACKAGE = Path(__file__).resolve().parents[1]


def packaged_rules() -> Path:
    """The folder ``rules`` with the packaged tables."""
    installed = _PACKAGE / "rules"
    return installed if installed.is_dir() else _PACKAGE.parent / "rules"
