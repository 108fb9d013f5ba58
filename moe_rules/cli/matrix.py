"""The table of machines and checkpoint formats that ``matrix`` prints, in three forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moe_rules.cli.render import columns, console, kernel_name
from moe_rules.reporting.markdown import table

Outcome = str
"""selected, none (no backend serves), no_oracle, or refused (the checkpoint, by vLLM)."""


@dataclass(frozen=True)
class Cell:
    """What one machine takes for one checkpoint format; ``because`` says why, or why not."""

    scheme: str
    machine: str
    outcome: Outcome
    oracle: str | None
    backend: str | None
    kernel: str | None
    how: str | None
    because: str

    @property
    def lines(self) -> tuple[str, ...]:
        """Backend and kernel, or what happens instead."""
        if self.outcome == "selected":
            return (self.backend or "", kernel_name(self.kernel, self.how or ""))
        words = {"none": "none serves", "no_oracle": "no oracle", "refused": "refused"}
        return (words[self.outcome],)


@dataclass(frozen=True)
class Matrix:
    """Cells by checkpoint format (rows) and machine (columns)."""

    title: str
    machines: tuple[str, ...]
    schemes: tuple[str, ...]
    cells: tuple[Cell, ...]

    def rows(self) -> list[tuple[str, list[Cell]]]:
        """Each checkpoint format with its cells in the order of the machines."""
        found = {(cell.scheme, cell.machine): cell for cell in self.cells}
        return [
            (scheme, [found[scheme, machine] for machine in self.machines])
            for scheme in self.schemes
        ]


MEANINGS = {
    "none": "none serves: no backend can serve the layer there",
    "no_oracle": "no oracle: vLLM serves the checkpoint without one",
    "refused": "refused: vLLM does not load the checkpoint there",
    "fallback": "no kernel: the layer is loaded, and nothing runs it",
}
"""What cells without a kernel mean, by outcome or by how they came about."""


WIDEST = 160
"""Columns of a table of text; on a terminal its width, where that is less."""


def as_text(matrix: Matrix) -> str:
    """Two lines a row: backend, and kernel below it. Machines that do not fit go below."""
    rows = matrix.rows()
    titles = max(map(len, matrix.schemes), default=0)
    blocks: list[list[int]] = []
    room = 0
    for index, machine in enumerate(matrix.machines):
        words = [machine, *(line for _, cells in rows for line in cells[index].lines)]
        width = 2 + max(map(len, words))
        if width > room:
            blocks.append([])
            room = min(console().width, WIDEST) - titles
        blocks[-1].append(index)
        room -= width
    met = {cell.outcome for cell in matrix.cells} | {cell.how for cell in matrix.cells}
    notes = "\n".join(text for word, text in MEANINGS.items() if word in met)
    tables = [columns(_lines(matrix, block)) for block in blocks]
    return "\n\n".join([matrix.title, *tables, *([notes] if notes else [])])


def _lines(matrix: Matrix, chosen: Sequence[int]) -> list[list[str]]:
    """The table of some of the machines, without lines that are empty throughout."""
    table = [["", *(matrix.machines[index] for index in chosen)]]
    for scheme, cells in matrix.rows():
        lines = [cells[index].lines for index in chosen]
        table.append([scheme, *(line[0] for line in lines)])
        if any(len(line) > 1 for line in lines):
            table.append(["", *(line[1] if len(line) > 1 else "" for line in lines)])
    return table


def as_markdown(matrix: Matrix) -> str:
    """A table for a page; the title above it."""
    rows = [
        [scheme, *(" ".join((c.lines[0], *(f"`{line}`" for line in c.lines[1:]))) for c in cells)]
        for scheme, cells in matrix.rows()
    ]
    return f"**{matrix.title}**\n\n{table(['', *matrix.machines], rows)}"


def as_json(matrix: Matrix) -> str:
    """Every cell with all that is known of it."""
    data: dict[str, Any] = {**asdict(matrix), "cells": [asdict(cell) for cell in matrix.cells]}
    return json.dumps(data, indent=2)


FORMATS: dict[str, Callable[[Matrix], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
}
"""How a matrix is written, by the name that ``--format`` takes."""
