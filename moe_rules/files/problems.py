"""What is wrong with a file, and where: findings that every reader of files reports alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from moe_rules.vocabulary.record import Record

KeyPath = tuple[str | int, ...]
"""Where a value is in a document: keys of mappings and positions in lists."""


class Location(Record):
    """A place in a file. ``line`` and ``column`` count from 1; 0 is the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return (
            f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"
        )

    @property
    def short(self) -> str:
        """``file:line`` with the file's last two path components."""
        name = "/".join(Path(self.file).parts[-2:])
        return f"{name}:{self.line}" if self.line else name


class Problem(Record):
    """One finding: a stable ``code``, what is wrong, and where.

    ``witness`` are facts of a deployment that shows it, in plain form.
    """

    code: str
    message: str
    location: Location
    severity: Literal["error", "warning"] = "error"
    witness: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.location}: {self.severity}: {self.message} [{self.code}]"

    @property
    def in_an_error(self) -> str:
        """The same beneath a head or a class that says already that it is an error."""
        return (
            str(self)
            if self.severity != "error"
            else f"{self.location}: {self.message} [{self.code}]"
        )


class RuleFileError(ValueError):
    """One or several files cannot be used. ``problems`` holds every finding, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(
            problems, key=lambda p: (p.location.file, p.location.line, p.location.column)
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))
