"""What a check found, and what every reporter of it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from moe_rules.files.problems import Problem


@dataclass(frozen=True)
class Report:
    """The findings of a check, in file order, and every file that was looked at."""

    problems: tuple[Problem, ...]
    files: tuple[str, ...]

    @classmethod
    def of(cls, problems: Sequence[Problem], files: Sequence[str]) -> Report:
        """Put findings in file order; the same finding counts once."""
        ordered = sorted(
            dict.fromkeys(problems),
            key=lambda p: (p.location.file, p.location.line, p.location.column),
        )
        found_in = [problem.location.file for problem in ordered]
        return cls(tuple(ordered), tuple(dict.fromkeys([*files, *found_in])))

    def count(self, severity: str) -> int:
        """How many findings are errors or warnings."""
        return sum(problem.severity == severity for problem in self.problems)

    @property
    def summary(self) -> str:
        """One line: how much was found in how many files."""
        parts = [
            f"{count} {severity}{'s' if count > 1 else ''}"
            for severity in ("error", "warning")
            if (count := self.count(severity))
        ]
        plural = "s" if len(self.files) != 1 else ""
        return f"{', '.join(parts) or 'no findings'} in {len(self.files)} file{plural}"


class Reporter(ABC):
    """Writes a report in one format."""

    @abstractmethod
    def report(self, report: Report) -> str:
        """The whole output, without a final line break."""
