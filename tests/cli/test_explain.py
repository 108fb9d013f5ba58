"""explain: the whole trace, on terminals of any width."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from moe_rules.cli import build_parser, deployment
from moe_rules.cli.trace import print_trace
from tests.cli.conftest import MODELS, Command


def test_explain_shows_the_whole_trace(cli: Command, model: Path) -> None:
    answer = cli("explain", "--model", model, "--machine", "h100")
    decision = cli("explain", "--model", model, "--machine", "h100", "--format", "json").json
    assert answer.code == 0
    for candidate in decision["candidates"]:
        assert candidate["kernel"] in answer.out
        for failure in candidate["failures"]:
            clause = f"{failure['fact']} is {failure['seen']}, wanted {failure['wanted']}"
            assert f"{failure['code']}: {clause}" in answer.out
            file, line, _ = failure["at"].rsplit(":", 2)
            assert f"{Path(file).name}:{line}" in answer.out
    assert "last: FLASHINFER_TRTLLM, FLASHINFER_CUTLASS" in answer.out
    assert f"order: {', '.join(decision['order'])}" in answer.out
    assert decision["rules"] in answer.out
    assert "compute_capability" in answer.out


@pytest.mark.parametrize("columns", [None, "40", "400"])
@pytest.mark.parametrize("command", [("explain",), ("why-not", "marlin")])
def test_nothing_is_cut_off_a_terminal(
    cli: Command, monkeypatch: pytest.MonkeyPatch, columns: str | None, command: tuple[str, ...]
) -> None:
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    words = ["--model", MODELS / "Qwen3-30B-A3B-FP8.json", "--machine", "h100", "--tp", "4"]
    lines = cli(*command, *words).out.splitlines()
    clauses = [line for line in lines if "quantization_scheme: " in line]
    assert clauses
    assert all(re.search(r"\(cuda/kernels\w*\.yaml:\d+\)$", line) for line in clauses)
    assert max(map(len, clauses)) > 160


def test_lines_wrap_on_a_terminal(cli: Command) -> None:
    words = ["--model", MODELS / "Qwen3-30B-A3B-FP8.json", "--machine", "h100", "--tp", "4"]
    asked = deployment.ask(build_parser().parse_args(["explain", *map(str, words)]))
    decision = asked.decide(asked.questions[0])
    terminal = Console(file=io.StringIO(), width=60)
    print_trace(terminal, "model", asked.machine, (), decision)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 60
    assert "…" not in shown

    def candidates(text: str) -> str:
        return re.sub(r"[\s│├└─]", "", text.partition("\nCandidates\n")[2])

    assert candidates(shown) == candidates(cli("explain", *words).out)


def test_explain_says_what_is_not_in_the_order_and_nests_alternatives(cli: Command) -> None:
    out = cli("explain", "--model", MODELS / "gpt-oss-120b.json", "--machine", "h100").out
    assert "without CUTLASS_MXFP4_MXFP4: its activation_key is kMxfp4Dynamic, wanted none" in out
    either = out.index("none of these holds")
    assert out.index("    ├── request: VLLM_HUMMING_MOE_GEMM_TYPE is none", either) > either


def test_the_subject_names_the_deployment(cli: Command, model: Path) -> None:
    words = ["--model", model, "--machine", "h100"]
    assert ", on h100, tp 2, dp 4, ep:\n" in cli("select", *words, "--tp=2", "--dp=4", "--ep").out
    assert ", on h100:\n" in cli("select", *words).out


def test_explain_a_refusal_says_what_is_nearest(cli: Command, model: Path) -> None:
    answer = cli("explain", "--model", model, "--machine", "a100",
                 "--moe-backend", "flashinfer_cutlass")  # fmt: skip
    assert answer.code == 1
    assert "no backend serves" in answer.out
    assert "moe_backend: auto instead of flashinfer_cutlass" in answer.out


def test_explain_lists_unknown_facts(cli: Command, model: Path, tmp_path: Path) -> None:
    machine = tmp_path / "machine.yaml"
    machine.write_text('name: x\nplatform: {device: cuda, compute_capability: "10.0"}\n')
    answer = cli("explain", "--model", model, "--machine", machine)
    assert "Unknown facts" in answer.out
    assert "flashinfer_trtllm_fused_moe" in answer.out
