"""run: the selected kernel runs a layer, or the user is told why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tests.cli.conftest import LAYER, MODELS, Command

CPU = ["run", "--machine", "x86", "--oracle", "unquantized", *LAYER]
BLOCK_FP8 = ["--weight", "kFp8Static128BlockSym", "--activation-key", "kFp8Dynamic128Sym"]

pytest.importorskip("torch")


def test_runs_the_selected_kernel_within_its_bound(cli: Command) -> None:
    answer = cli(*CPU, "--num-tokens", 5, "--seed", 3, "--format", "json")
    assert answer.code == 0, answer.err
    run = answer.json["run"]
    assert run["kernel"] == answer.json["decision"]["kernel"] == "CPUUnquantizedExperts"
    assert (run["num_tokens"], run["seed"], run["dtype"]) == (5, 3, "bf16")
    assert 0 < run["relative_error"] <= run["error_bound"]
    assert run["max_abs_error"] > 0
    assert run["median_ms"] > 0
    assert run["runs"] >= 3
    assert run["reductions"] == []


def test_the_same_seed_gives_the_same_error(cli: Command) -> None:
    def error(seed: int) -> float:
        return float(cli(*CPU, "--seed", seed, "--format", "json").json["run"]["relative_error"])

    assert error(1) == error(1) != error(2)


def test_text_says_error_time_and_versions(cli: Command) -> None:
    import torch

    out = cli(*CPU).out
    assert "CPU / CPUUnquantizedExperts" in out
    assert "error against the float64 reference: max abs" in out
    assert "within the bound" in out
    assert "median of" in out
    assert torch.__version__ in out


def test_says_what_it_is_about_to_do_beside_the_answer(cli: Command) -> None:
    answer = cli(*CPU, "--format", "json")
    assert answer.json["run"]["num_experts"] == 8
    assert answer.err.splitlines() == [
        "moe-rules: making random weights of 8 experts on cpu",
        "moe-rules: running CPUUnquantizedExperts",
        "moe-rules: computing the float64 reference",
        "moe-rules: timing CPUUnquantizedExperts",
    ]


def test_runs_block_fp8_on_the_cpu(cli: Command) -> None:
    answer = cli("run", "--machine", "x86-amx-fp8", "--oracle", "fp8", *LAYER, *BLOCK_FP8)
    assert answer.code == 0, answer.err
    assert "CPUExpertsFp8W8A8" in answer.out
    assert "kFp8Static128BlockSym" in NAMED_KEYS


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], None),
        (["--ep"], "one process ran the whole layer, for --ep spreads experts over the ranks"),
        (["--ep", "--dp", 4], "one process ran the part of one of 4 ranks, and exchanged nothing"),
        (["--tp", 2], "torchrun --nproc-per-node 2 -m moe_rules run ... --ep runs all of them"),
    ],
)
def test_one_process_says_that_it_is_not_the_ranks(
    cli: Command, words: list[object], said: str | None
) -> None:
    notes = "".join(cli(*CPU, *words, "--format", "json").json["notes"])
    out = cli(*CPU, *words).out
    assert ("one process" in notes, "one process" in out) == (said is not None,) * 2
    assert said is None or (said in notes and said in out)


def test_a_large_layer_is_reduced_and_says_so(cli: Command) -> None:
    # 8 experts of 3 * 256 * 512 bf16 weights take 6.3 MB.
    answer = cli(*CPU, "--max-weights-gb", "0.0032", "--format", "json")
    assert answer.json["run"]["num_experts"] == 4
    assert answer.json["decision"]["facts"]["num_experts"] == 8
    assert "4 of 8 experts" in answer.json["run"]["reductions"][0]
    single = cli(*CPU, "--max-weights-gb", "0.0008")
    assert "1 of 8 experts" in single.out
    assert "routed to 1 experts instead of 2" in single.out
    none = cli(*CPU, "--max-weights-gb", "0.0001")
    assert none.code == 1
    assert "one expert's weights take" in none.err


def test_a_kernel_of_a_package_that_is_not_installed(cli: Command, model: Path) -> None:
    answer = cli("run", "--model", model, "--machine", "b200")
    assert answer.code == 1
    assert "TrtLlmBf16ExpertsMonolithic" in answer.err
    assert "pip install vllm" in answer.err


def test_a_kernel_for_another_device(cli: Command, model: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    answer = cli("run", "--model", model, "--machine", "h100")
    assert answer.code == 1
    assert "torch sees no GPU here" in answer.err


def test_a_layer_that_nothing_serves(cli: Command, model: Path) -> None:
    answer = cli("run", "--model", model, "--machine", "a100", "--moe-backend", "flashinfer_trtllm")
    assert answer.code == 1
    assert "compute_capability is 8.0" in answer.err


def test_platforms_whose_own_code_takes_over(cli: Command) -> None:
    answer = cli("run", "--model", MODELS / "Qwen3-30B-A3B.json", "--machine", "tpu")
    assert answer.code == 1
    assert "TPU was selected, which has no kernel to run: " in answer.err


@pytest.mark.gpu
def test_runs_triton_on_the_gpu(cli: Command, model: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    answer = cli("run", "--model", model, "--machine", "h100", "--format", "json")
    assert answer.code == 0, answer.err
    run = answer.json["run"]
    assert (run["kernel"], run["device"]) == ("TritonExperts", "cuda")
    assert torch.cuda.get_device_name() in run["software"]
    assert run["relative_error"] <= run["error_bound"]
