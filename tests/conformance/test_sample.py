"""Agreement with the recorded decisions that the repository carries (``tests/samples``)."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from moe_rules.conformance import cases
from moe_rules.conformance.cases import Case, CaseError, case_files, read_cases, read_lines
from moe_rules.conformance.compare import Comparer, Verdict, takes
from moe_rules.conformance.run import load_comparer, run_files
from moe_rules.files.releases import releases
from moe_rules.language.ruleset import overlay_paths

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
OLDER = [release.name for release in releases()[1:]]
"""Releases, each with a sample of what it decides otherwise on every platform, and of all else."""


def test_every_recorded_decision_agrees() -> None:
    result = run_files(case_files([SAMPLES]))
    assert [f"{d.id}: {'; '.join(d.notes)}" for d in result.disagreements] == []
    assert result.complete
    assert sum(counts.decision.total for counts in result.oracles.values()) > 4000
    assert len(result.oracles) == 10


def test_diagrams_say_of_every_case_what_the_rules_do(comparer: Comparer) -> None:
    answers = 0
    for path in case_files([SAMPLES]):
        for case in read_cases(path):
            compiled, decision = comparer.compiled(case), comparer.decide(case)
            assert compiled is not None
            said = compiled.answers(case.parts)
            assert said.result == decision.result, case.id
            assert said.order == decision.order, case.id
            asked = [(name, None) for name in decision.declared_backends]
            attempts = [attempt.backend for attempt in decision._outcome.attempts]
            for backend in (*decision.declared_backends.values(), *attempts):
                kernels = [choice.kernel.class_name for choice in backend.choices]
                asked += [(backend.name, kernel) for kernel in kernels]
                asked += [(None, kernel) for kernel in kernels if backend in attempts]
            for pair in asked:
                assert said.takes(*pair) is takes(decision, *pair), (case.id, *pair)
            answers += len(asked)
    assert answers > 40000


def test_switches_that_cannot_be_read_are_left_to_the_rules(comparer: Comparer) -> None:
    case = Case.parse(first_line("fp8", "error", env={"VLLM_USE_DEEP_GEMM": "on"}), "here")
    assert comparer.compiled(case) is None
    line = first_line("fp8", "selected", env={"VLLM_USE_DEEP_GEMM": "on"})
    recorded = {"outcome": "error", "error_type": "ValueError", "error_message": "invalid literal"}
    line["expect"] |= recorded
    assert comparer.compare(Case.parse(line, "here")) == Verdict(True, None, None)


def test_facts_that_are_missing_are_left_to_the_rules(comparer: Comparer) -> None:
    line = first_line("int_wna16", "selected", options={})
    case = Case.parse(line, "here")
    compiled = comparer.compiled(case)
    assert compiled is not None
    with pytest.raises(KeyError):
        compiled.answers(case.parts)
    assert comparer.compare(case).candidates is not None


def test_a_deployment_that_cannot_be_is_noticed(comparer: Comparer) -> None:
    line = first_line("fp8", "selected")
    assert comparer.compare(Case.parse(line, "here")).decision is True
    line["moe"]["parallel"] |= {"use_ep": False, "ep_size": 2}
    verdict = comparer.compare(Case.parse(line, "here"))
    assert verdict.decision is False
    assert verdict.notes[0].startswith("recorded, though impossible (")


def test_an_unknown_platform_disagrees(comparer: Comparer) -> None:
    line = first_line("fp8", "selected", platform={"name": "new", "kind": "new"})
    assert comparer.compare(Case.parse(line, "here")).decision is False


@pytest.mark.parametrize("release", OLDER)
def test_every_recorded_decision_of_an_older_release_agrees(release: str) -> None:
    cases = case_files([SAMPLES.parent / release])
    result = run_files(cases, overlays=overlay_paths(release=release))
    assert [f"{d.id}: {'; '.join(d.notes)}" for d in result.disagreements] == []
    assert result.complete
    assert sum(counts.decision.total for counts in result.oracles.values()) > 1000
    assert len(result.oracles) == 10


@pytest.mark.parametrize("release", OLDER)
def test_an_older_release_decides_otherwise(release: str) -> None:
    result = run_files(case_files([SAMPLES.parent / release]))
    differing = sum(c.decision.total - c.decision.agree for c in result.oracles.values())
    assert differing > 300


def test_only_the_oracles_asked_for_are_counted() -> None:
    (path,) = case_files([SAMPLES / "cuda-sm90.jsonl.gz"])
    assert list(run_files([path], ["fp8"]).oracles) == ["fp8"]


@pytest.fixture(scope="module")
def comparer() -> Comparer:
    return load_comparer()


def first_line(oracle: str, outcome_recorded: str, /, **changes: Any) -> dict[str, Any]:
    """The line of a recorded case with some of its parts changed."""
    for _, line in read_lines(SAMPLES / "cuda-sm90.jsonl.gz"):
        if line["oracle"] == oracle and line["expect"]["outcome"] == outcome_recorded:
            return {**line, **changes}
    raise AssertionError("no such case")


def first_case(oracle: str, outcome_recorded: str, /, **changes: Any) -> Case:
    """A recorded case with some of its expectations changed."""
    line = first_line(oracle, outcome_recorded)
    return Case.parse({**line, "expect": {**line["expect"], **changes}}, "here")


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
    line = first_line("fp8", "selected")
    answers = [*line["expect"]["tried"], *line["expect"]["not_reached"]]
    answer = next(a for a in answers if a["kernel"] == "FlashInferExperts")
    answer["supported"] = not answer["supported"]
    assert comparer.compare(Case.parse(line, "here")).candidates is False


def test_another_error_type_is_noticed(comparer: Comparer) -> None:
    recorded = first_line("fp8", "error")["expect"]["error_type"]
    other = {"ValueError": "NotImplementedError", "NotImplementedError": "ValueError"}
    case = first_case("fp8", "error", error_type=other[recorded])
    assert comparer.compare(case).decision is False


def test_crashes_of_the_reference_are_counted_apart(comparer: Comparer) -> None:
    case = first_case("fp8", "error", error_type="AttributeError")
    assert case.reference_crashed
    assert comparer.compare(case).decision is None


def test_cases_are_read_where_isal_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    opened, error = cases._gzip()
    assert (opened, error) == (gzip.open, zlib.error)


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
    damaged = tmp_path / "damaged.jsonl.gz"
    packed = gzip.compress(json.dumps({"text": list(range(999))}).encode())
    damaged.write_bytes(packed[:10] + b"\xff" * 9 + packed[19:])
    with pytest.raises(CaseError, match=r"damaged.jsonl.gz:1: not a gzip file"):
        list(read_lines(damaged))
    for nothing in (b"", gzip.compress(b"")):
        damaged.write_bytes(nothing)
        with pytest.raises(CaseError, match=r"damaged.jsonl.gz: the file has no line"):
            list(read_lines(damaged))
    nested = tmp_path / "nested.jsonl.gz"
    nested.write_bytes(gzip.compress(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"))
    with pytest.raises(CaseError, match=r"nested.jsonl.gz:1: not JSON"):
        list(read_lines(nested))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("platform", "device", ["a"]),
        ("platform", "arch", "x"),
        ("software", "flashinfer", "x"),
        ("software", "aiter", {"a": 1}),
        ("runtime", "enable_dbo", []),
        ("moe", "num_experts", "many"),
        ("moe", "num_experts", True),
        ("options", "allow_vllm_cutlass", []),
    ],
)
def test_values_that_no_fact_has_are_no_case(part: str, name: str, value: object) -> None:
    """Neither the diagrams of an oracle nor its rules are asked about them."""
    file = next(iter(case_files([SAMPLES])))
    line = next(data for _, data in read_lines(file) if data["oracle"] == "fp8")
    line[part] = {**line[part], name: value}
    with pytest.raises(CaseError, match=r"here: not a case: .* cannot be"):
        Case.parse(line, "here")
