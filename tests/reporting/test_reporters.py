"""Finding formats: each is read back by what reads that format."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.files.problems import Location, Problem
from moe_rules.reporting import REPORTERS, Case, Report

_TEXT = st.text(max_size=30)
_PROBLEMS = st.builds(
    Problem,
    code=st.sampled_from(["unknown-key", "not-yaml", "schema"]),
    message=_TEXT,
    location=st.builds(
        Location,
        file=st.sampled_from(["rules/cuda.yaml", "/tmp/a b.yaml", "x,y:z.yaml", "ä\udcff.yaml"]),
        line=st.integers(0, 99),
        column=st.integers(0, 99),
    ),
    severity=st.sampled_from(["error", "warning"]),
)
REPORTS = st.lists(_PROBLEMS, max_size=5).map(lambda found: Report.of(found, ["clean.yaml"]))

# The parts of the SARIF 2.1.0 schema that a run with results uses.
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name", "rules"],
                                "properties": {
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {"type": "object", "required": ["id"]},
                                    }
                                },
                            }
                        },
                    },
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message", "ruleId", "level", "locations"],
                            "properties": {
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "message": {"type": "object", "required": ["text"]},
                                "locations": {
                                    "items": {
                                        "properties": {
                                            "physicalLocation": {
                                                "required": ["artifactLocation"],
                                                "properties": {
                                                    "region": {
                                                        "required": ["startLine"],
                                                        "properties": {
                                                            "startLine": {"minimum": 1},
                                                            "startColumn": {"minimum": 1},
                                                        },
                                                    }
                                                },
                                            }
                                        }
                                    }
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


@given(REPORTS)
def test_sarif_is_valid_and_its_results_name_their_rules(report: Report) -> None:
    data = json.loads(REPORTERS["sarif"].report(report))
    jsonschema.Draft7Validator(SARIF).validate(data)
    (run,) = data["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(run["results"]) == len(report.problems)
    for result, problem in zip(run["results"], report.problems, strict=True):
        assert rules[result["ruleIndex"]] == result["ruleId"] == problem.code
        assert result["message"]["text"] == problem.message
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert " " not in uri
        assert uri.isascii()


@given(REPORTS)
def test_junit_parses_and_counts(report: Report) -> None:
    suite = ElementTree.fromstring(REPORTERS["junit"].report(report))
    cases = suite.findall("testcase")
    failing = {p.location.file for p in report.problems if p.severity == "error"}
    names = [file.replace("\udcff", "\ufffd") for file in report.files]
    assert [case.get("name") for case in cases] == names
    assert int(suite.get("tests", "")) == len(cases)
    assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure")) == len(failing)


@given(REPORTS)
def test_github_has_one_command_a_line(report: Report) -> None:
    lines = REPORTERS["github"].report(report).split("\n")
    assert lines[-1] == report.summary
    assert len(lines) == len(report.problems) + 1
    for line, problem in zip(lines, report.problems, strict=False):
        command, properties, data = (
            line.split("::", 1)[1].partition(" ")[::2][0],
            *line[2:].split("::", 1),
        )
        assert command == problem.severity
        assert "\r" not in line
        assert data.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%") == problem.message
        fields = dict(field.split("=", 1) for field in properties.partition(" ")[2].split(","))
        assert fields["title"] == problem.code
        assert fields.get("line", "0") == str(problem.location.line)


@given(REPORTS)
def test_json_says_everything(report: Report) -> None:
    data = json.loads(REPORTERS["json"].report(report))
    assert data["errors"] + data["warnings"] == len(report.problems) == len(data["findings"])
    for finding, problem in zip(data["findings"], report.problems, strict=True):
        assert (finding["line"], finding["column"]) == (
            problem.location.line,
            problem.location.column,
        )
        assert finding["message"] == problem.message


@pytest.mark.parametrize(
    ("severities", "summary"),
    [
        ([], "no findings in 1 file"),
        (["error"], "1 error in 2 files"),
        (["error", "warning", "error"], "2 errors, 1 warning in 2 files"),
    ],
)
def test_summary(severities: list[str], summary: str) -> None:
    problems = [
        Problem("x", str(i), Location("a.yaml", i + 1), severity)  # type: ignore[arg-type]
        for i, severity in enumerate(severities)
    ]
    assert Report.of(problems, ["b.yaml"]).summary == summary


def test_findings_are_in_file_order_and_counted_once() -> None:
    first, second = Problem("x", "1", Location("a", 1)), Problem("x", "2", Location("a", 2))
    assert Report.of([second, first, second], []).problems == (first, second)


@pytest.mark.parametrize(
    ("count", "summary"),
    [(1, "no findings in 1 proof of 1 file; slow"), (2, "no findings in 2 proofs of 1 file; slow")],
)
def test_summary_of_what_a_command_calls_its_own(count: int, summary: str) -> None:
    cases = tuple(Case(f"case {number}", "a.yaml", ()) for number in range(count))
    called = ("proof", "proofs")
    report = Report.of([], ["a.yaml"], examples=cases, called=called, remark="slow")
    assert report.summary == summary
