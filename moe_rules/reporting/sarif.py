"""SARIF 2.1.0, which code-scanning services read.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moe_rules.files.problems import Location, Problem
from moe_rules.reporting.base import Report, Reporter
from moe_rules.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class SarifReporter(Reporter):
    """One run, with a rule for each code that was found."""

    def report(self, report: Report) -> str:
        """See :class:`Reporter`."""
        codes = list(dict.fromkeys(problem.code for problem in report.problems))
        driver = {
            "name": "moe-rules",
            "semanticVersion": __version__,
            "rules": [
                {"id": code, "shortDescription": {"text": code.replace("-", " ").capitalize()}}
                for code in codes
            ],
        }
        run = {
            "tool": {"driver": driver},
            "columnKind": "unicodeCodePoints",
            "artifacts": [{"location": _artifact(file)} for file in report.files],
            "results": [_result(problem, codes) for problem in report.problems],
        }
        return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _result(problem: Problem, codes: list[str]) -> dict[str, Any]:
    return {
        "ruleId": problem.code,
        "ruleIndex": codes.index(problem.code),
        "level": problem.severity,
        "message": {"text": problem.message},
        "locations": [{"physicalLocation": _place(problem.location)}],
    }


def _place(location: Location) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": _artifact(location.file)}
    if location.line:
        region = {"startLine": location.line}
        place["region"] = region | ({"startColumn": location.column} if location.column else {})
    return place


def _artifact(file: str) -> dict[str, str]:
    path = Path(file)
    # By its bytes: what is no UTF-8 is part of a name, too.
    return {"uri": path.as_uri() if path.is_absolute() else quote(os.fsencode(path.as_posix()))}
