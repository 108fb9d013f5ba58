"""The process that asks, given a stand-in for vLLM: cases come back with what it came to."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools.record.asked import RELEASE, STAND_IN, case

ROOT = Path(__file__).parents[3]

CASES = {
    "first": case(software={"deep_gemm": True}),
    "second": case(),
    "without": case(software={"deep_gemm": True}, environ={"VLLM_USE_DEEP_GEMM": "0"}),
    "by name": case(software={"deep_gemm": True}, moe_backend="wide"),
    "unknown name": case(moe_backend="narrow"),
    "narrow": case(hidden_dim=512),
    "raises": case(hidden_dim=64),
    "no kernel": case("unquantized"),
    "no oracle": case("nvfp4"),
    "no fact": case(require_decomposed_backend=True),
    "no layer": case(num_experts=1),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answers by the name of what was asked, the report, and the lines that were executed."""
    folder = tmp_path_factory.mktemp("recorded")
    with gzip.open(folder / "in.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps(one) + "\n" for one in CASES.values())
    files = [str(folder / name) for name in ("in.jsonl.gz", "out.jsonl.gz", "executed.json")]
    done = subprocess.run(
        [sys.executable, "-m", "tools.record.worker", *files[:2], "--executed", files[2]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{STAND_IN}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    with gzip.open(folder / "out.jsonl.gz", "rt") as lines:
        answers = {line["id"]: line for line in map(json.loads, lines)}
    names = {one["id"]: name for name, one in CASES.items()}
    return {
        "report": json.loads(done.stdout.splitlines()[-1]),
        "executed": json.loads((folder / "executed.json").read_text()),
        **{names[key]: answer["expect"] for key, answer in answers.items()},
    }


def answer(backend: str, supported: bool | None, reason: str | None = None) -> dict[str, Any]:
    kernel = f"{backend.title()}Experts"
    said = {"backend": backend, "kernel": kernel, "supported": supported}
    return said if reason is None else {**said, "reason": reason}


def test_the_first_that_serves_is_selected_and_the_others_are_asked_afterwards(
    recorded: dict[str, Any],
) -> None:
    assert recorded["first"] == {
        "outcome": "selected",
        "backend": "DEEP",
        "backend_value": "DEEP",
        "kernel": "DeepExperts",
        "priority": ["DEEP", "WIDE"],
        "priority_initial": None,
        "requested": None,
        "tried": [answer("DEEP", True)],
        "not_reached": [answer("WIDE", True)],
    }


def test_software_is_what_the_case_says(recorded: dict[str, Any]) -> None:
    second = recorded["second"]
    assert second["tried"] == [answer("DEEP", False, "no DeepGEMM"), answer("WIDE", True)]
    assert (second["backend"], second["not_reached"]) == ("WIDE", [])


def test_a_switch_changes_the_order_and_what_it_was_before_is_kept(
    recorded: dict[str, Any],
) -> None:
    without = recorded["without"]
    assert without["priority"] == ["WIDE"]
    assert without["priority_initial"] == ["DEEP", "WIDE"]
    assert without["not_reached"] == [answer("DEEP", True)]


def test_a_request_is_what_its_name_means(recorded: dict[str, Any]) -> None:
    assert recorded["by name"]["requested"] == ["WIDE"]
    assert recorded["by name"]["priority"] == ["WIDE", "DEEP"]


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("unknown name", "ValueError", "no backend narrow"),
        ("narrow", "NotImplementedError", "no backend serves"),
        ("raises", "RuntimeError", "asked about 64"),
    ],
)
def test_what_is_raised_is_the_answer(
    recorded: dict[str, Any], name: str, error: str, text: str
) -> None:
    assert recorded[name]["outcome"] == "error"
    assert (recorded[name]["error_type"], recorded[name]["error_message"]) == (error, text)


def test_a_kernel_that_raises_neither_supports_nor_refuses(recorded: dict[str, Any]) -> None:
    assert recorded["raises"]["tried"][-1] == answer("WIDE", None, "RuntimeError: asked about 64")


def test_what_selects_without_kernels_asks_none(recorded: dict[str, Any]) -> None:
    expect = recorded["no kernel"]
    assert (expect["backend"], expect["kernel"], expect["priority"]) == ("NONE", None, None)
    assert expect["tried"] == expect["not_reached"] == []


def test_what_the_release_does_not_have_is_left_out_and_said(recorded: dict[str, Any]) -> None:
    report = recorded["report"]
    assert report["release"] == RELEASE
    assert report["oracles"] == ["unquantized", "fp8"]
    assert report["cases"] == len(CASES) - 3
    assert report["left_out"] == {
        "no oracle nvfp4": 1,
        "LacksError: FusedMoEConfig has no require_decomposed_backend": 1,
        "ValueError: fewer experts than a token is routed to": 1,
    }
    assert report["kernels"]["DeepExperts"] == {"supports": 3, "refuses": 4}
    assert "vllm.utils.flashinfer:has_flashinfer" in report["missing"]
    assert "vllm.utils.import_utils:has_deep_gemm" not in report["missing"]


def test_lines_are_known_by_their_files_in_the_package(recorded: dict[str, Any]) -> None:
    lines = recorded["executed"]["model_executor/layers/fused_moe/oracle/fp8.py"]
    source = (STAND_IN / "vllm/model_executor/layers/fused_moe/oracle/fp8.py").read_text()
    missing = [n for n, line in enumerate(source.splitlines(), 1) if "raise" in line]
    assert set(missing[1:]) <= set(lines)  # the first is raised as kernels are looked for
    assert not any("quant_utils" in file for file in recorded["executed"])
