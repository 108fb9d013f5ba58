"""Findings in the formats that people and their tools read.

A :class:`Report` is what a check found in which files; a :class:`Reporter` writes it as text,
JSON, GitHub annotations, SARIF or JUnit XML. :data:`REPORTERS` has one of each by name.
"""

from __future__ import annotations

from moe_rules.reporting.base import Case, Report, Reporter
from moe_rules.reporting.github import GithubReporter
from moe_rules.reporting.junit import JunitReporter
from moe_rules.reporting.sarif import SarifReporter
from moe_rules.reporting.text import JsonReporter, TextReporter

__all__ = [
    "REPORTERS",
    "Case",
    "GithubReporter",
    "JsonReporter",
    "JunitReporter",
    "Report",
    "Reporter",
    "SarifReporter",
    "TextReporter",
]

REPORTERS: dict[str, Reporter] = {
    "text": TextReporter(),
    "json": JsonReporter(),
    "github": GithubReporter(),
    "sarif": SarifReporter(),
    "junit": JunitReporter(),
}
"""One reporter for each format, by the name that ``--format`` takes."""
