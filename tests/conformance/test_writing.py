"""What is written as a case is read back as the same facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moe_rules.conformance.cases import Case, case_files, platform_facts, read_lines
from moe_rules.conformance.writing import append_case, case_of, refused, selected
from moe_rules.machines.machine import Machine, facts_of

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
LINES = [line for path in case_files([SAMPLES]) for _, line in read_lines(path)][::5]


def written(line: dict[str, Any]) -> dict[str, Any]:
    """A recorded case, read and written again."""
    case = Case.parse(line, "here")
    software = {name: line["software"][name] for name in facts_of("software")}
    platform = platform_facts(line["platform"])
    known = {name: value for name, value in platform.items() if value is not None}
    machine = Machine("here", known, software, "recorded")
    facts = {name: value for name, value in case.request.items() if name not in software}
    expect = line["expect"]
    if expect["outcome"] == "selected":
        outcome = selected(expect["backend"], expect["backend_value"], expect["kernel"])
    else:
        outcome = refused(
            {"ValueError": ValueError, "NotImplementedError": NotImplementedError}.get(
                expect["error_type"], RuntimeError
            )(expect["error_message"])
        )
    return case_of(case.oracle, machine, facts, line["env"], outcome, {})


def test_cases_come_back(tmp_path: Path) -> None:
    path = tmp_path / "field.jsonl.gz"
    for line in LINES:
        append_case(path, written(line))
    back = [line for _, line in read_lines(path)]
    assert len(back) == len(LINES) > 100
    for line, again in zip(LINES, back, strict=True):
        case, other = Case.parse(line, "here"), Case.parse(again, "there")
        assert (other.oracle, other.facts) == (case.oracle, case.facts)
        wanted = {"outcome", "backend", "kernel", "error_message"} & set(line["expect"])
        assert {n: again["expect"][n] for n in wanted} == {n: line["expect"][n] for n in wanted}


def test_an_id_stands_for_what_was_asked() -> None:
    line = LINES[0]
    other = {**line, "moe": {**line["moe"], "hidden_dim": line["moe"]["hidden_dim"] * 2}}
    assert written(line)["id"] == written(dict(line))["id"]
    assert written(line)["id"] != written(other)["id"]
