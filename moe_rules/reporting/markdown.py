"""Tables, code and plain words in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells in Markdown; empty text where there is no row.

    What would end a cell, a bar or a line break, is replaced.
    """
    lines = list(map(_row, rows))
    return "\n".join([_row(head), "|" + " --- |" * len(head), *lines]) if lines else ""


def code(text: str) -> str:
    """Text as code in a line, whatever stands in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{marks}{space}{text}{space}{marks}"


def words(text: str) -> str:
    """Text as it is, in a line, whatever stands in it that means something in Markdown."""
    return re.sub(r"[\\`*<\[]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split("\n")))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', _BAR).replace(_BREAK, ' ') for cell in cells)} |"


_BAR, _BREAK = "\\|", "\n"
