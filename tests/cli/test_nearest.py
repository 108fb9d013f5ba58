"""nearest: the least change after which a backend is selected."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Command


def test_nearest_says_what_to_change_and_what_nobody_can(cli: Command, model: Path) -> None:
    words = ["--model", model, "--machine", "h100"]
    requested = cli("nearest", "BATCHED_TRITON", *words)
    assert requested.code == 0
    assert "moe_backend: batched_triton instead of auto" in requested.out
    device = cli("nearest", "FLASHINFER_TRTLLM", *words)
    assert "(not yours to change: compute_capability)" in device.out


def test_nearest_as_json(cli: Command, model: Path) -> None:
    words = ["--model", model, "--machine", "h100", "--format", "json"]
    answer = cli("nearest", "BATCHED_TRITON", *words).json
    assert answer["nearest"][0] == [
        {"fact": "moe_backend", "before": "auto", "value": "batched_triton", "fixed": False}
    ]
    assert cli("nearest", "TRITON", *words).json["selected"]


def test_nearest_says_where_nothing_selects_it(cli: Command, model: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "cuda.yaml"
    overlay.write_text(
        "platform: cuda\n"
        "oracles: {unquantized: {adjust: [{withdraw: [BATCHED_TRITON], because: test}]}}\n"
    )
    words = ["--model", model, "--machine", "h100", "--rules", overlay]
    answer = cli("nearest", "BATCHED_TRITON", *words)
    assert answer.code == 1
    assert "nothing on cuda selects BATCHED_TRITON" in answer.out
