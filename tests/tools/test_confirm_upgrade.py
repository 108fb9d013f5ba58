"""What an upgrade is said to change, as cases, and against what two releases came to."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from moe_rules.conformance.cases import read_lines
from moe_rules.conformance.run import load_comparer, run_file
from moe_rules.conformance.writing import refused, selected
from moe_rules.files.releases import release_of
from tools.confirm_upgrade import main

MODELS = Path(__file__).parents[2] / "examples" / "models"
WORDS = ("--from", "0.32", "--to", "0.33", "--model", str(MODELS / "toy-moe.json"))
MACHINES = ("--machine", "mi300x", "--machine", "x86")


def recorded(path: Path, cases: list[dict[str, Any]], side: str, odd: str = "") -> Path:
    """A recording in which a release comes to what is said, but for one case."""
    path.mkdir()
    answered = []
    for case in cases:
        backend, _, kernel = case["tags"][side].partition(" / ")
        if kernel:
            expect = selected(backend, backend, None if kernel == "no kernel" else kernel)
        else:
            errors = {"invalid_request": ValueError(), "not_supported": NotImplementedError()}
            expect = refused(errors[backend])
        if case["id"] == odd:
            expect = refused(KeyError())
        answered.append({**case, "expect": expect})
    with gzip.open(path / "all.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps(case) + "\n" for case in answered)
    return path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    assert main(["ask", str(tmp_path / "asked.jsonl.gz"), *WORDS, *MACHINES]) == 0
    return tmp_path / "asked.jsonl.gz"


def test_cases_ask_what_is_said(asked: Path) -> None:
    cases = [case for _, case in read_lines(asked)]
    said = {(case["tags"]["before"], case["tags"]["after"]) for case in cases}
    assert ("AITER / AiterExperts", "AITER / AiterUnquantizedExperts") in said
    assert ("TRITON / TritonExperts", "TRITON / TritonExperts") in said
    assert any(case["env"] == {"VLLM_ROCM_USE_AITER": "1"} for case in cases)
    assert any(case["moe"]["moe_backend"] == "marlin" for case in cases)
    assert {case["platform"]["kind"] for case in cases} == {"rocm", "cpu"}
    assert all(case["moe"]["num_experts"] == 8 for case in cases)


def test_either_release_decides_the_cases_as_they_say(asked: Path, tmp_path: Path) -> None:
    cases = [case for _, case in read_lines(asked)]
    for side, release in (("before", "0.32"), ("after", "0.33")):
        folder = recorded(tmp_path / side, cases, side)
        comparer = load_comparer(release_of(release).folders)
        result = run_file(folder / "all.jsonl.gz", frozenset(), comparer)
        counts = result.oracles["unquantized"].decision
        assert (counts.agree, counts.total) == (len(cases), len(cases))


def test_answers_confirm_or_contradict(
    asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [case for _, case in read_lines(asked)]
    before = recorded(tmp_path / "before", cases, "before")
    after = recorded(tmp_path / "after", cases, "after")
    assert main(["answers", str(asked), str(before), str(after)]) == 0
    assert "contradicted" not in capsys.readouterr().out
    odd = next(case for case in cases if case["tags"]["before"] != case["tags"]["after"])
    other = recorded(tmp_path / "other", cases, "after", odd["id"])
    assert main(["answers", str(asked), str(before), str(other)]) == 1
    out = capsys.readouterr().out
    assert f"{odd['tags']['about']}: " in out
    assert "but came to" in out
    assert "     1  changed, contradicted" in out
    fewer = recorded(tmp_path / "fewer", cases[:1], "after")
    assert main(["answers", str(asked), str(before), str(fewer)]) == 1
    assert "changed, not recorded by both" in capsys.readouterr().out


def test_the_older_release_is_not_asked_what_it_has_no_word_for(tmp_path: Path) -> None:
    out = tmp_path / "asked.jsonl.gz"
    assert main(["ask", str(out), "--from", "0.32", "--oracle", "mxfp8", "--platform", "cuda"]) == 0
    cases = {case["id"]: case for _, case in read_lines(out)}
    pairs = [(one, cases[one["tags"]["older"]]) for one in cases.values() if "older" in one["tags"]]
    word = "require_decomposed_backend"
    assert any(one["moe"][word] for one, _ in pairs)
    for one, older in pairs:
        assert not older["moe"][word]
        assert {**one["moe"], word: False} == older["moe"]


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", str(tmp_path / "asked.jsonl.gz"), "--from", "0.30"]
    assert main(words) == 2
    assert "there are no tables of release '0.30'" in capsys.readouterr().err
    nothing = str(tmp_path / "nothing")
    assert main(["answers", nothing, nothing, nothing]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
