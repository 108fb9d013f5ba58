"""why-not: what keeps one backend from serving."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Command


def test_why_not_shows_only_that_backend(cli: Command, model: Path) -> None:
    answer = cli("why-not", "flashinfer-trtllm", "--model", model, "--machine", "h100")
    assert answer.code == 1
    assert "TrtLlmBf16ExpertsMonolithic" in answer.out
    assert "device: compute_capability is 9.0, wanted 10.*" in answer.out
    assert "BatchedTritonExperts" not in answer.out


def test_why_not_names_what_stands_ahead(cli: Command, model: Path) -> None:
    answer = cli("why-not", "FLASHINFER_CUTLASS", "--model", model, "--machine", "h100")
    assert "it could serve this layer, but TRITON stands ahead" in answer.out
    assert "slower than Triton on Hopper" in answer.out


def test_why_not_the_selected_one(cli: Command, model: Path) -> None:
    answer = cli("why-not", "TRITON", "--model", model, "--machine", "h100")
    assert answer.code == 0
    assert "TRITON is selected" in answer.out


def test_why_not_a_backend_outside_the_priority(cli: Command, model: Path) -> None:
    answer = cli("why-not", "MOONEP", "--model", model, "--machine", "h100", "--format", "json")
    assert answer.code == 1
    assert "not in the priority list" in answer.json["why"][0]


def test_why_not_an_unknown_backend(cli: Command, model: Path) -> None:
    answer = cli("why-not", "TRITTON", "--model", model, "--machine", "h100")
    assert answer.code == 2
    assert "did you mean 'TRITON'?" in answer.err


def test_why_not_ends_with_the_least_change(cli: Command, model: Path) -> None:
    answer = cli("why-not", "BATCHED_TRITON", "--model", model, "--machine", "h100")
    assert answer.out.rstrip().endswith("selected with moe_backend: batched_triton instead of auto")


def test_why_not_gives_the_reason_why_a_kernel_is_withdrawn(
    cli: Command, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "cuda.yaml").write_text(
        "platform: cuda\nwithdrawn: {kernels: {BatchedTritonExperts: We have no licence}}\n"
    )
    answer = cli(
        "why-not", "BATCHED_TRITON", "--model", model, "--machine", "h100", "--rules", tmp_path
    )
    assert answer.code == 1
    assert "BatchedTritonExperts is withdrawn: We have no licence" in answer.out
    assert "none of its kernels" not in answer.out


def test_why_not_a_kernel(cli: Command, model: Path) -> None:
    answer = cli("why-not", "TritonExperts", "--model", model, "--machine", "h100")
    assert answer.code == 2
    assert "no backend 'TritonExperts', but a kernel of TRITON (known: " in answer.err
