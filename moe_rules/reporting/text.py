"""Plain forms: lines for people and editors (``file:line:column: severity: ...``), and JSON."""

from __future__ import annotations

import json

from moe_rules.reporting.base import Report, Reporter


class TextReporter(Reporter):
    """One line for each finding, and a summary."""

    def report(self, report: Report) -> str:
        """See :class:`Reporter`."""
        return "\n".join([*map(str, report.problems), report.summary])


class JsonReporter(Reporter):
    """An object with findings, files, examples (as they are called), errors and warnings."""

    def report(self, report: Report) -> str:
        """See :class:`Reporter`."""
        findings = [
            {
                "file": problem.location.file,
                "line": problem.location.line,
                "column": problem.location.column,
                "severity": problem.severity,
                "code": problem.code,
                "message": problem.message,
                **({"witness": dict(problem.witness)} if problem.witness else {}),
            }
            for problem in report.problems
        ]
        counts = {"errors": report.count("error"), "warnings": report.count("warning")}
        examples = [
            {"name": case.name, "file": case.file, "failed": case.failed}
            for case in report.examples
        ]
        looked_at = {"files": report.files, report.called[1]: examples}
        return json.dumps({"findings": findings, **looked_at, **counts}, indent=2)
