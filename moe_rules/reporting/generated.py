"""Pages of ``docs/`` that are made of the tables: where they lie, and what writes one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from moe_rules.files.packaged import packaged_rules


def page(name: str) -> Path:
    """Where a checkout has a page of ``docs/``."""
    return packaged_rules().parent / "docs" / name


def write_page(
    module: str, name: str, document: Callable[[], str], arguments: list[str] | None = None
) -> int:
    """Print a page, or write it with ``--write``; ``python -m module`` is the command.

    ``arguments`` are those of the process if absent. Returns the exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments not in ([], ["--write"]):
        print(f"usage: python -m {module} [--write]", file=sys.stderr)
        return 2
    if not arguments:
        print(document(), end="")
        return 0
    path = page(name)
    if not path.parent.is_dir():
        print(f"there is no folder {path.parent}; --write needs a checkout", file=sys.stderr)
        return 2
    path.write_text(document(), encoding="utf-8")
    return 0
