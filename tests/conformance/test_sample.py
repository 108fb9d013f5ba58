"""Agreement with the recorded decisions that the repository carries (``tests/samples``)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from moe_rules.conformance.cases import Case, CaseError, case_files, read_lines
from moe_rules.conformance.compare import Comparer
from moe_rules.conformance.run import run_files
from moe_rules.language.ruleset import PLATFORMS, load_platform, overlay_paths
from moe_rules.selectors.selector import Selector

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
OLDER = SAMPLES.parent / "0.32" / "cases.jsonl.xz"
"""Of what 0.32 decides otherwise, some of every platform and oracle, and some of all else."""


def test_every_recorded_decision_agrees() -> None:
    result = run_files(case_files([SAMPLES]))
    assert [f"{d.id}: {'; '.join(d.notes)}" for d in result.disagreements] == []
    assert result.complete
    assert sum(counts.decision.total for counts in result.oracles.values()) > 4000
    assert len(result.oracles) == 10


def test_every_recorded_decision_agrees_with_the_compiled_form() -> None:
    result = run_files(case_files([SAMPLES]), compiled=True)
    assert [f"{d.id}: {'; '.join(d.notes)}" for d in result.disagreements] == []
    assert result.complete
    assert sum(counts.decision.total for counts in result.oracles.values()) > 4000


def test_every_recorded_decision_of_an_older_release_agrees_with_its_rules() -> None:
    result = run_files([OLDER], overlays=overlay_paths(release="0.32"))
    assert [f"{d.id}: {'; '.join(d.notes)}" for d in result.disagreements] == []
    assert result.complete
    assert sum(counts.decision.total for counts in result.oracles.values()) > 1000
    assert len(result.oracles) == 10


def test_an_older_release_decides_otherwise() -> None:
    result = run_files([OLDER])
    differing = sum(c.decision.total - c.decision.agree for c in result.oracles.values())
    assert differing > 300


def test_only_the_oracles_asked_for_are_counted() -> None:
    (path,) = case_files([SAMPLES / "cuda-sm90.jsonl.gz"])
    assert list(run_files([path], ["fp8"]).oracles) == ["fp8"]


@pytest.fixture(scope="module")
def comparer() -> Comparer:
    return Comparer({platform: Selector(load_platform(platform), {}) for platform in PLATFORMS})


def first_case(oracle: str, outcome_recorded: str, /, **changes: Any) -> Case:
    """A recorded case with some of its expectations changed."""
    for _, line in read_lines(SAMPLES / "cuda-sm90.jsonl.gz"):
        if line["oracle"] == oracle and line["expect"]["outcome"] == outcome_recorded:
            line["expect"] |= changes
            return Case.parse(line, "here")
    raise AssertionError("no such case")


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        ({"backend": "NOTHING"}, "decision"),
        ({"outcome": "error", "error_type": "ValueError", "error_message": "?"}, "decision"),
        ({"priority": ["TRITON"]}, "order"),
    ],
)
def test_a_wrong_answer_is_noticed(
    comparer: Comparer, change: dict[str, Any], measure: str
) -> None:
    verdict = comparer.compare(first_case("fp8", "selected", **change))
    assert getattr(verdict, measure) is False
    assert verdict.notes


def test_a_wrong_candidate_is_noticed(comparer: Comparer) -> None:
    case = first_case("fp8", "selected")
    answers = [*case.expect["tried"], *case.expect["not_reached"]]
    answer = next(a for a in answers if a["kernel"] == "FlashInferExperts")
    answer["supported"] = not answer["supported"]
    assert comparer.compare(case).candidates is False


def test_another_error_type_is_noticed(comparer: Comparer) -> None:
    recorded = first_case("fp8", "error").expect["error_type"]
    other = {"ValueError": "NotImplementedError", "NotImplementedError": "ValueError"}
    case = first_case("fp8", "error", error_type=other[recorded])
    assert comparer.compare(case).decision is False


def test_crashes_of_the_reference_are_counted_apart(comparer: Comparer) -> None:
    case = first_case("fp8", "error", error_type="AttributeError")
    assert case.reference_crashed
    assert comparer.compare(case).decision is None


def test_unreadable_case_files(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no file or folder"):
        case_files([tmp_path / "none"])
    with pytest.raises(CaseError, match=r"holds no \*.jsonl.gz"):
        case_files([tmp_path])
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_text("{}")
    with pytest.raises(CaseError, match="not a gzip file"):
        list(read_lines(plain))
    other = tmp_path / "other.jsonl.xz"
    other.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(CaseError, match=r"other.jsonl.xz:1: not an xz file"):
        list(read_lines(other))
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(json.dumps({}).encode() + b"\n{\n"))
    with pytest.raises(CaseError, match=r"broken.jsonl.gz:2: not JSON"):
        list(read_lines(broken))
