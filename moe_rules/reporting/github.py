"""GitHub annotations: workflow commands that mark the line of a pull request.

Source: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from moe_rules.files.problems import Location, Problem
from moe_rules.reporting.base import Report, Reporter


class GithubReporter(Reporter):
    """One ``::error`` or ``::warning`` command for each finding, and a summary."""

    def report(self, report: Report) -> str:
        """See :class:`Reporter`."""
        return "\n".join([*map(_command, report.problems), report.summary])


def annotation(kind: str, title: str, message: str, place: Location | None = None) -> str:
    """A workflow command of a kind ("error", "warning", "notice"), at a place if there is one."""
    at = place or Location("")
    properties = {"file": at.file, "line": at.line, "col": at.column, "title": title}
    given = [f"{name}={_property(str(value))}" for name, value in properties.items() if value]
    return f"::{kind} {','.join(given)}::{_data(message)}"


def _command(problem: Problem) -> str:
    return annotation(problem.severity, problem.code, problem.message, problem.location)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
