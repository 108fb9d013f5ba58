"""What a check found, and what every reporter of it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moe_rules.files.problems import Problem


@dataclass(frozen=True)
class Case:
    """One thing that was looked at, a file or an example in it, with what was found there."""

    name: str
    file: str
    problems: tuple[Problem, ...]

    @property
    def failed(self) -> bool:
        """An error was found."""
        return any(problem.severity == "error" for problem in self.problems)


@dataclass(frozen=True)
class Report:
    """The findings of a command, in file order, and every file that was looked at.

    ``examples`` are what a command looked at that holds those of files against the rules; what is
    found elsewhere is of a file. ``called`` is what an example is called, and several of them;
    ``remark`` is what else to say in the summary.
    """

    problems: tuple[Problem, ...]
    files: tuple[str, ...]
    command: str = "check"
    examples: tuple[Case, ...] = ()
    called: tuple[str, str] = ("example", "examples")
    remark: str = ""

    @classmethod
    def of(cls, problems: Sequence[Problem], files: Sequence[str], **more: Any) -> Report:
        """Put findings in file order; the same finding counts once."""
        ordered = sorted(
            dict.fromkeys(problems),
            key=lambda p: (p.location.file, p.location.line, p.location.column),
        )
        found_in = [problem.location.file for problem in ordered]
        return cls(tuple(ordered), tuple(dict.fromkeys([*files, *found_in])), **more)

    def count(self, severity: str) -> int:
        """How many findings are errors or warnings."""
        return sum(problem.severity == severity for problem in self.problems)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The examples, and the files: all, or those in which something else was found."""
        elsewhere = set(self.problems) - {p for case in self.examples for p in case.problems}
        files = [
            Case(file, file, tuple(p for p in self.problems if p in elsewhere and _is_in(p, file)))
            for file in self.files
        ]
        return (*self.examples, *(case for case in files if case.problems or not self.examples))

    @property
    def summary(self) -> str:
        """One line: how much was found in how many files."""
        parts = [
            counted(count, severity)
            for severity in ("error", "warning")
            if (count := self.count(severity))
        ]
        where = counted(len(self.files), "file")
        if self.examples:
            where = f"{len(self.examples)} {self.called[len(self.examples) != 1]} of {where}"
        remark = f"; {self.remark}" if self.remark else ""
        return f"{', '.join(parts) or 'no findings'} in {where}{remark}"


def _is_in(problem: Problem, file: str) -> bool:
    return problem.location.file == file


def counted(count: int, noun: str) -> str:
    """A number of things in words: "1 file", "2 files"."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


class Reporter(ABC):
    """Writes a report in one format."""

    @abstractmethod
    def report(self, report: Report) -> str:
        """The whole output, without a final line break."""
