"""bench: what is measured for which options, and what it says without a GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from moe_kernels.benchmark.plan import Plan
from moe_kernels.benchmark.report import Measurement, Results

from moe_rules.cli import build_parser
from moe_rules.cli.benchmarked import ORACLES, picks
from moe_rules.cli.commands.bench import _plan_of
from moe_rules.cli.errors import UserError
from tests.cli.conftest import MODELS, Command


def plan_of(*words: object, platform: str | None = None) -> Plan:
    args: argparse.Namespace = build_parser().parse_args(["bench", *map(str, words)])
    args.platform = platform
    return _plan_of(args)


def test_named_shapes_and_schemes_are_planned() -> None:
    plan = plan_of("--shape", "mixtral-8x7b", "--scheme", "bf16", "fp8_block", "--tokens", 3, 1, 3)
    assert list(plan.shapes) == ["mixtral-8x7b"]
    assert list(plan.schemes) == ["bf16", "fp8_block"]
    assert plan.tokens == (3, 1)
    assert len(plan_of().layers()) > 40


@pytest.mark.parametrize(
    ("file", "words", "scheme", "sizes"),
    [
        ("Qwen3-30B-A3B.json", [], "bf16", (128, 8, 2048, 768, 1)),
        ("Qwen3-30B-A3B-FP8.json", ["--tp", 2], "fp8_block", (128, 8, 2048, 384, 1)),
        ("Qwen3-30B-A3B.json", ["--tp", 4, "--ep"], "bf16", (128, 8, 2048, 768, 4)),
        ("Qwen3-30B-A3B-GPTQ-Int4.json", [], "int4_w4a16", (128, 8, 2048, 768, 1)),
        ("gpt-oss-120b.json", [], "mxfp4_w4a16", (128, 4, 2880, 2880, 1)),
    ],
)
def test_a_models_layer_is_planned(
    file: str, words: list[object], scheme: str, sizes: tuple[int, ...]
) -> None:
    plan = plan_of("--model", MODELS / file, *words, platform="h100")
    ((name, shape),) = plan.shapes.items()
    assert name == file.removesuffix(".json")
    assert sizes == (
        shape.experts, shape.topk, shape.hidden, shape.intermediate, shape.ep_size,
    )  # fmt: skip
    assert list(plan.schemes) == [scheme]
    if file.startswith("gpt-oss"):
        assert (shape.activation, shape.bias) == ("swigluoai", True)


def test_a_model_excludes_named_shapes(model: Path) -> None:
    with pytest.raises(UserError, match="--model and --scheme exclude each other"):
        plan_of("--model", model, "--scheme", "bf16", platform="h100")


def test_wrong_options_are_named(cli: Command) -> None:
    answer = cli("bench", "--shape", "mixtral")
    assert answer.code == 2
    assert "mixtral-8x7b" in answer.err
    answer = cli("bench", "--tokens", "0")
    assert answer.code == 2
    assert "expected 1 or more, got 0" in answer.err
    answer = cli("bench", "--model", "nowhere.json")
    assert answer.code == 2
    assert "nowhere.json" in answer.err


def test_a_dry_run_lists_what_would_be_measured(cli: Command, tmp_path: Path) -> None:
    words = ["--shape", "mixtral-8x7b", "--scheme", "bf16", "fp8_block", "--tokens", 1, 64]
    answer = cli("bench", "--dry-run", *words, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines() == [
        "bf16 mixtral-8x7b: uniform, skewed; 1, 64 tokens",
        "fp8_block mixtral-8x7b: uniform, skewed; 1, 64 tokens",
        "2 layers, 8 points for every kernel",
    ]
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_it_says_so(cli: Command) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    answer = cli("bench", "--shape", "mixtral-8x7b")
    assert answer.code == 2
    assert "needs a CUDA GPU" in answer.err
    assert answer.out == ""


def test_vllms_picks_are_those_of_its_tables_for_the_device() -> None:
    from moe_kernels.benchmark.shapes import SCHEMES

    assert ORACLES.keys() == SCHEMES.keys()
    plan = plan_of("--shape", "qwen3-30b-a3b", "deepseek-v3-ep8", "--scheme", *SCHEMES)
    found = {(pick.scheme, pick.shape): pick.backend for pick in picks(plan, "NVIDIA H200")}
    assert found["fp8_block", "qwen3-30b-a3b"] == "TRITON"
    assert found["fp8_block", "deepseek-v3-ep8"] == "FLASHINFER_CUTLASS"
    assert found["fp8_channel", "qwen3-30b-a3b"] == "VLLM_CUTLASS"
    assert found["int4_w4a16", "qwen3-30b-a3b"] == "HUMMING"
    assert found.keys() == set(plan.layers())


def test_an_unknown_device_has_no_picks(capsys: pytest.CaptureFixture[str]) -> None:
    assert picks(plan_of("--scheme", "bf16"), "Voodoo 2") == []
    assert "no named machine has a device called 'Voodoo 2'" in capsys.readouterr().err


def test_overlays_and_switches_of_the_process_change_no_pick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of("--shape", "deepseek-v3-ep8", "--scheme", "fp8_block")
    before = picks(plan, "NVIDIA H200")
    monkeypatch.setenv("MOE_RULES_BACKEND", "fp8=triton")
    monkeypatch.setenv("MOE_RULES_PATH", "corrected")
    monkeypatch.setenv("VLLM_USE_DEEP_GEMM", "1")
    assert picks(plan, "NVIDIA H200") == before


def test_tables_of_a_run_are_written_anew(cli: Command, tmp_path: Path) -> None:
    point = ("int4_w4a16", "qwen3-30b-a3b", "uniform", 64)
    figures = (5.0, "bytes", 1.0, 2.0, 1e-3)
    run = {"device": "NVIDIA H200", "date": "2026-11-28", "torch": "2", "triton": "3"}
    results = Results("ours", {**run, "seed": 1, "peers": {}})
    results.measurements = [
        Measurement(*point, name, us, us, *figures) for name, us in (("ours", 2.0), ("theirs", 3.0))
    ]
    results.peer_kernels = {"theirs": ["HummingIndexedExperts"]}
    results.write(tmp_path)
    answer = cli("bench", "--report", "--out", tmp_path)
    assert answer.code == 0
    assert "| int4_w4a16 | vLLM's pick | 1 | 1.50 | 1.50 | 1.50 |" in answer.out
    assert answer.out == (tmp_path / "layers.md").read_text()
    assert Results.read(tmp_path).picks[0].backend == "HUMMING"


def test_a_report_without_results_says_so(cli: Command, tmp_path: Path) -> None:
    answer = cli("bench", "--report", "--out", tmp_path)
    assert answer.code == 2
    assert f"{tmp_path} holds no results of moe-rules bench" in answer.err
    for wrong in ("[]", "{", '{"ours": 1}'):
        (tmp_path / "layers.json").write_text(wrong)
        answer = cli("bench", "--report", "--out", tmp_path)
        assert answer.code == 2
        assert f"{tmp_path} holds no results of moe-rules bench" in answer.err
    Results("ours", {"device": "NVIDIA H200"}).write(tmp_path)
    assert "'date'" in cli("bench", "--report", "--out", tmp_path).err


def test_ranks_are_started_by_torchrun(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("RANK", raising=False)
    answer = cli("bench", "--ranks", "--shape", "mixtral-8x7b")
    assert answer.code == 2
    assert "torchrun --nproc-per-node N -m moe_rules bench --ranks" in answer.err
