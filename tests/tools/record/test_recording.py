"""Recordings go on where they were interrupted, and say what they cannot do."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.record.asked import MACHINE, RELEASE, STAND_IN, case
from tools.record.__main__ import main
from tools.record.environment import (
    MADE,
    NoEnvironmentError,
    python_of,
    requirements_for,
)
from tools.record.recording import KEPT

Record = Callable[..., int]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Runs the command with the stand-in for vLLM."""
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))

    def run(*words: object, python: str = sys.executable, release: str = RELEASE) -> int:
        options = ["--python", python, "--out", str(tmp_path / "out"), "--machine", MACHINE]
        return main([release, *options, *map(str, words)])

    return run


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Two cases that were recorded elsewhere: one is answered as there, the other is not."""
    path = tmp_path / "recorded.jsonl.gz"
    seen = {"priority": ["DEEP", "WIDE"], "priority_initial": None, "requested": None}
    kernel = {"backend": "WIDE", "kernel": "WideExperts", "supported": True}
    refused = {"backend": "DEEP", "kernel": "DeepExperts", "supported": False, "reason": "said so"}
    expect = {
        "outcome": "selected",
        "backend": "WIDE",
        "backend_value": "WIDE",
        "kernel": "WideExperts",
        **seen,
        "tried": [refused, kernel],
        "not_reached": [],
    }
    cases = [
        {**case(hidden_dim=2048), "expect": expect},
        {**case(hidden_dim=512), "expect": expect},
    ]
    with gzip.open(path, "wt") as lines:
        lines.writelines(json.dumps(one) + "\n" for one in cases)
    return path


def recorded(tmp_path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(tmp_path / "out" / f"{MACHINE}.jsonl.gz", "rt") as lines:
        yield from map(json.loads, lines)


def test_generated_cases_are_recorded_and_reported(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record("--oracle", "fp8", "--cases", 40) == 0
    answers = list(recorded(tmp_path))
    assert 10 < len(answers) <= 40
    assert all("expect" in answer for answer in answers)
    said = capsys.readouterr().err
    assert "vLLM 0.0.1 has no oracle nvfp4" in said
    assert f"{len(answers)} cases of 1 machines" in said
    assert "oracle/fp8.py" in (tmp_path / "out" / "executed.md").read_text()


def test_what_is_recorded_is_not_recorded_again(record: Record, tmp_path: Path) -> None:
    options = ("--oracle", "fp8", "--cases", 10)
    assert record(*options) == 0
    before = list(recorded(tmp_path))
    # Nothing is asked: this Python could not.
    assert record(*options, python="/bin/false") == 0
    assert list(recorded(tmp_path)) == before
    (tmp_path / "out" / KEPT / "reports" / f"{MACHINE}.json").unlink()
    assert record(*options) == 0
    assert list(recorded(tmp_path)) == before


def test_another_plan_needs_another_folder(
    record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record("--oracle", "fp8", "--cases", 10) == 0
    assert record("--oracle", "fp8", "--cases", 10, "--seed", 5) == 2
    said = capsys.readouterr().err
    assert "holds another recording, with seed 0 and not 5" in said


def test_recorded_cases_are_asked_again_and_compared(
    record: Record, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record("--inputs", inputs, "--compare", inputs) == 1
    said = " ".join(capsys.readouterr().err.split())
    # What the reference says in words may differ.
    assert "of 2 recorded cases, 2 were asked again: 1 equal, 1 not fp8: 1" in said
    assert "backend: WIDE and None" in said
    ids = {one["id"] for one in recorded(tmp_path)}
    assert ids == {case(hidden_dim=2048)["id"], case(hidden_dim=512)["id"]}


def test_a_release_that_the_environment_does_not_have_is_not_recorded(
    record: Record, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record("--inputs", inputs, release="0.33.0") == 2
    assert "has vLLM 0.0.1, not 0.33.0" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.jsonl.gz"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("--machine", "cuda-sm91"),
            "cuda-sm91: no such machine is recorded; did you mean 'cuda-sm90'?",
        ),
        (
            ("--platform", "cudda"),
            "--platform cudda: there is none of that name; did you mean 'cuda'?",
        ),
        (("--platform", "h100"), "that is a machine; --machine h100 asks for it"),
        (("--platform", "rocm"), "no machine is what --machine and --platform say"),
        (("--oracle", "fp9"), "no oracle 'fp9'; did you mean 'fp8'?"),
        (("--cases", "0"), "--cases and --jobs are at least 1"),
        (("--inputs", "/nowhere"), "there is no file or folder /nowhere"),
        (("--compare", "/nowhere"), "there is no file or folder /nowhere"),
        (("--machin", "tpu"), "has no option --machin; did you mean --machine?"),
        (("--only", "h100"), "has no option --only; h100 is a machine: --machine h100"),
        (("--orcale", "fp8"), "has no option --orcale; did you mean --oracle?"),
        (("fp8",), "python -m tools.record takes no 'fp8'; python -m tools.record --help has"),
    ],
)
def test_what_cannot_be_recorded_is_said(
    record: Record, words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record(*words) == 2
    assert text in capsys.readouterr().err


def test_what_is_no_case_is_not_asked_again(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "1"}\n'))
    assert record("--inputs", path) == 2
    assert "odd.jsonl.gz:1: not a case" in capsys.readouterr().err


def test_a_process_that_fails_is_said_with_its_log(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record("--oracle", "fp8", "--cases", 10, python="/bin/false") == 2
    said = capsys.readouterr().err
    assert f"{MACHINE}: the process that asks vLLM failed" in said
    assert record("--oracle", "fp8", "--cases", 10) == 0


def test_there_has_to_be_a_python(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    assert record(python="/nowhere/python") == 2
    assert "there is no Python /nowhere/python" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "plan.json",
            "plan.json is damaged (Expecting value: line 1 column 1 (char 0)): remove it",
        ),
        (f"reports/{MACHINE}.json", f"{MACHINE}.json is damaged"),
    ],
)
def test_a_recording_that_is_damaged_is_not_gone_on_with(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, said: str
) -> None:
    assert record("--oracle", "fp8", "--cases", 10) == 0
    (tmp_path / "out" / KEPT / file).write_text("")
    assert record("--oracle", "fp8", "--cases", 10) == 2
    assert said in capsys.readouterr().err


def test_what_cannot_be_run_or_written_is_said(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    words = ("--oracle", "fp8", "--cases", 10)
    assert record(*words, python=str(file)) == 2
    assert f"{file}: Permission denied" in capsys.readouterr().err
    assert record(*words, "--out", file) == 2
    assert f"{file}: File exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "file"),
    [
        ("0.33.0", "requirements-0.33.0.txt"),
        ("0.32.0", "requirements-0.32.0.txt"),
        ("0.32.1", "requirements-0.32.0.txt"),
        ("0.31.0", "requirements-0.32.0.txt"),
        ("1.0.0", "requirements-0.33.0.txt"),
    ],
)
def test_a_release_has_the_requirements_of_the_one_before_it(version: str, file: str) -> None:
    assert requirements_for(version).name == file


def test_requirements_are_pinned() -> None:
    for path in requirements_for("1.0.0").parent.glob("requirements-*.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert len(lines) > 10
        assert all("==" in line for line in lines)


@pytest.mark.parametrize("version", ["latest", "", "0.33", "../0.33.0"])
def test_what_is_no_version_has_no_environment(version: str, tmp_path: Path) -> None:
    with pytest.raises(NoEnvironmentError, match=r" is no version of vLLM, as 0\.33\.0"):
        python_of(version, tmp_path)


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "environments" / "0.33.0"
    folder.mkdir(parents=True)
    (folder / MADE).write_text("made\n")
    assert python_of("0.33.0", tmp_path) == folder / "bin" / "python"
