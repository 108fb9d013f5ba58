"""Markdown as the generated pages write it: code, links, tables, headings that links can name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import Location
from moe_rules.reporting import markdown
from moe_rules.vocabulary.record import Record


class Page(Record):
    """One page: its place in the site (``facts/layer.md``), name in the navigation, and Markdown.

    A link to ``/PATH`` in the text is one from the root, to a page or a file of the repository.
    """

    path: str
    name: str
    text: str


def anchor(title: str) -> str:
    """What links call a heading, as Markdown makes it of the title."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def heading(level: int, title: str) -> str:
    """A heading."""
    return f"{'#' * level} {title}"


def code(text: object) -> str:
    """Text as code, whatever it holds."""
    return markdown.code(str(text))


def link(text: str, target: str) -> str:
    """A link."""
    return f"[{text}]({target})"


def place(location: Location) -> str:
    """A link to a line of the packaged tables, called as by decisions: ``cuda/fp8.yaml:34``."""
    name = Path(location.file).relative_to(packaged_rules().parent).as_posix()
    return link(location.short, f"/{name}#L{location.line}" if location.line else f"/{name}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without its empty columns; empty text where there is no row."""
    columns = [column for column in zip(head, *rows, strict=True) if any(column[1:])]
    kept, *cells = zip(*columns, strict=True) if columns else [()]
    return markdown.table(kept, cells)


WIDE = "---\nhide:\n  - toc\n---"
"""The head of a page that has no contents at its right, and more room."""


def section(level: int, title: str, body: str) -> str:
    """A heading with what stands below it; empty text where nothing does."""
    return f"{heading(level, title)}\n\n{body}" if body else ""


def document(*blocks: str) -> str:
    """Blocks one after the other, without the empty ones."""
    return "\n\n".join(block for block in blocks if block) + "\n"


def note(kind: str, title: str, text: str, *, closed: bool = False) -> str:
    """Text set apart, of a kind that the theme knows; what is ``closed`` opens by a click."""
    lines = "".join(f"    {line}\n" if line else "\n" for line in text.splitlines())
    return f'{"???" if closed else "!!!"} {kind} "{title}"\n\n{lines}'.rstrip()
