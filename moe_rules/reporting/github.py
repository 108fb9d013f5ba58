"""GitHub annotations: workflow commands that mark the line of a pull request.

Source: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from moe_rules.files.problems import Problem
from moe_rules.reporting.base import Report, Reporter


class GithubReporter(Reporter):
    """One ``::error`` or ``::warning`` command for each finding, and a summary."""

    def report(self, report: Report) -> str:
        """See :class:`Reporter`."""
        return "\n".join([*map(_command, report.problems), report.summary])


def _command(problem: Problem) -> str:
    place = problem.location
    properties = {"file": place.file, "line": place.line, "col": place.column}
    given = [f"{name}={_property(str(value))}" for name, value in properties.items() if value]
    given.append(f"title={_property(problem.code)}")
    return f"::{problem.severity} {','.join(given)}::{_data(problem.message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
