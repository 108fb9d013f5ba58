"""conformance: counts, disagreements with both explanations, and malformed case files."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moe_rules.cli import INTERRUPTED
from moe_rules.conformance.cases import Case, CaseError, read_lines
from moe_rules.machines.machine import load_machine
from tests.cli.conftest import Command

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
H100 = SAMPLES / "cuda-sm90.jsonl.gz"

REORDER = """\
platform: cuda
oracles:
  unquantized:
    adjust:
      - {first: [FLASHINFER_TRTLLM]}
"""


def write_cases(path: Path, *cases: Any) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(case) + "\n" for case in cases)
    return path


def test_counts_per_oracle(cli: Command) -> None:
    answer = cli("conformance", H100, "--format", "json")
    assert answer.code == 0, answer.out
    oracles = answer.json["oracles"]
    assert {"unquantized", "fp8"} <= set(oracles)
    for counts in oracles.values():
        for measure in ("decision", "candidates", "order"):
            assert counts[measure]["agree"] == counts[measure]["total"]
        assert isinstance(counts["reference_crashed"], int)
    text = cli("conformance", H100)
    total = oracles["fp8"]["decision"]["total"]
    assert f"100.00 % ({total}/{total})" in text.out


def test_oracles_can_be_picked(cli: Command) -> None:
    answer = cli("conformance", H100, "--oracle", "fp8", "--oracle", "int8", "--format", "json")
    assert set(answer.json["oracles"]) == {"fp8", "int8"}


def test_disagreement_is_1_with_both_explanations(cli: Command, tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(REORDER)
    words = ["conformance", H100, "--oracle", "unquantized", "--rules", overlay]
    answer = cli(*words, "--format", "json", "--show", 2)
    order = answer.json["oracles"]["unquantized"]["order"]
    assert answer.code == 1
    assert order["agree"] < order["total"]
    assert len(answer.json["disagreements"]) == 2
    text = cli(*words, "--show", 1).out
    assert text.count("  reference:\n") == text.count("  ours:\n") == 1
    assert "order: reference [" in text
    assert f"({order['agree']}/{order['total']})" in text


def test_crash_of_the_reference_is_counted_apart(cli: Command, tmp_path: Path) -> None:
    _, case = next(iter(read_lines(H100)))
    crash = {"outcome": "error", "error_type": "AttributeError", "error_message": "x"}
    case["expect"] = {**case["expect"], **crash}
    path = write_cases(tmp_path / "crash.jsonl.gz", case)
    counts = cli("conformance", path, "--format", "json").json["oracles"][case["oracle"]]
    assert counts["reference_crashed"] == 1
    assert counts["decision"] == {"agree": 0, "total": 0}


def test_an_oracle_without_a_table_disagrees(cli: Command, tmp_path: Path) -> None:
    _, case = next(iter(read_lines(H100)))
    path = write_cases(tmp_path / "new.jsonl.gz", {**case, "oracle": "nvfp5"})
    answer = cli("conformance", path, "--format", "json")
    assert answer.code == 1
    assert answer.json["oracles"]["nvfp5"]["decision"] == {"agree": 0, "total": 1}


def test_a_device_without_rules(cli: Command, tmp_path: Path) -> None:
    _, case = next(iter(read_lines(H100)))
    platform = {**case["platform"], "kind": "npu"}
    answer = cli(
        "conformance", write_cases(tmp_path / "new.jsonl.gz", {**case, "platform": platform})
    )
    assert answer.code == 1
    assert "there are no rules of device 'npu' (known: cuda, " in answer.out


def test_malformed_files(cli: Command, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(b"no gzip")
    assert "not a gzip file" in cli("conformance", broken).err
    with gzip.open(broken, "wt") as lines:
        lines.write("{\n")
    assert f"{broken}:1: not JSON" in cli("conformance", broken).err
    message = f"{write_cases(broken, [])}:1: not a case: Expected `object`, got `array`"
    assert message in cli("conformance", broken).err
    _, case = next(iter(read_lines(H100)))
    answer = cli("conformance", write_cases(broken, case, {**case, "expect": {}}))
    assert answer.code == 2
    assert f"{broken}:2: not a case: " in answer.err
    assert "expect: Object missing required field `outcome`" in answer.err
    moe = {**case["moe"], "activation": "sliu"}
    answer = cli("conformance", write_cases(broken, {**case, "moe": moe}))
    assert "activation cannot be 'sliu'; did you mean 'silu'?" in answer.err


@pytest.mark.parametrize(
    "key", ["id", "oracle", "platform", "software", "env", "moe", "weight", "options", "expect"]
)
def test_a_case_lacks_something(key: str) -> None:
    _, case = next(iter(read_lines(H100)))
    del case[key]
    with pytest.raises(CaseError, match=f"here:1: not a case: .* missing .* `{key}`"):
        Case.parse(case, "here:1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to compare"),
        (["nowhere"], "there is no file or folder nowhere"),
        (["--models", "nowhere"], "nowhere holds no decisions"),
        ([str(H100), "--oracle", "fp9"], "did you mean 'fp8'?"),
        ([str(H100), "--rules", "nowhere"], "there is no overlay 'nowhere'"),
    ],
)
def test_wrong_options(cli: Command, words: list[str], message: str) -> None:
    answer = cli("conformance", *words)
    assert answer.code == 2
    assert message in answer.err


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model with one recorded layer, which our rules derive and decide alike."""
    config = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 4096,
        "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2,
        "num_hidden_layers": 2, "dtype": "bfloat16", "num_attention_heads": 32,
    }  # fmt: skip
    case = next(
        case
        for _, case in read_lines(H100)
        if case["oracle"] == "unquantized" and case["expect"]["outcome"] == "selected"
    )
    moe = {
        **case["moe"], "num_experts": 8, "experts_per_token": 2, "hidden_dim": 4096,
        "intermediate_size": 14336, "intermediate_size_per_partition": 14336,
        "intermediate_size_per_partition_unpadded": None, "activation": "silu",
        "routing_method": "RenormalizeNaive", "in_dtype": "bf16", "router_logits_dtype": "bf16",
        "moe_backend": "auto", "has_bias": False, "is_lora_enabled": False,
        "has_hash_routing": False, "require_decomposed_backend": False,
        "skip_final_all_reduce": False,
        "parallel": {
            "tp_size": 1, "pcp_size": 1, "dp_size": 1, "ep_size": 1, "sp_size": 1,
            "use_ep": False, "all2all_backend": "allgather_reducescatter", "enable_eplb": False,
        },
    }  # fmt: skip
    expect = {
        "outcome": "selected", "backend": "TRITON", "kernel": "TritonExperts",
        "tried": [], "not_reached": [], "priority": None,
    }  # fmt: skip
    record = {
        **case, "software": dict(load_machine("h100").software),
        "id": "m1", "model": "mixtral", "status": "oracle", "env": {}, "moe": moe,
        "weight": None, "activation": None, "options": {}, "expect": expect,
        "deployment": {"name": "tp1", "tensor_parallel_size": 1},
        "layer": "model.layers.0.block_sparse_moe.experts",
    }  # fmt: skip
    (tmp_path / "mixtral.json").write_text(json.dumps({"config": config}))
    folder = tmp_path / "decisions" / "dev"
    folder.mkdir(parents=True)
    write_cases(folder / "mixtral.jsonl.gz", record)
    return tmp_path


def test_models_are_derived_and_decided(cli: Command, models: Path) -> None:
    answer = cli("conformance", "--models", models, "--format", "json")
    assert answer.code == 0, answer.out
    counts = answer.json["models"]
    assert set(counts) == {"facts", "scheme", "decision", "refused"}
    for what in ("facts", "scheme", "decision"):
        assert counts[what] == {"agree": 1, "total": 1}
    assert counts["refused"] == {"agree": 0, "total": 0}


def test_models_that_disagree(cli: Command, models: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(REORDER.replace("FLASHINFER_TRTLLM", "FLASHINFER_CUTLASS"))
    answer = cli("conformance", "--models", models, "--rules", overlay, "--format", "json")
    assert answer.code == 1
    assert answer.json["models"]["decision"] == {"agree": 0, "total": 1}
    text = cli("conformance", "--models", models, "--rules", overlay).out
    assert "ours FLASHINFER_CUTLASS/FlashInferExperts" in text
    config = json.loads((models / "mixtral.json").read_text())
    config["config"]["num_local_experts"] = 16
    (models / "mixtral.json").write_text(json.dumps(config))
    answer = cli("conformance", "--models", models)
    assert answer.code == 1
    assert "num_experts: ours 16, recorded 8" in answer.out


def test_an_interrupt_ends_all_workers_quietly() -> None:
    command = [sys.executable, "-m", "moe_rules", "conformance", str(SAMPLES)]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    time.sleep(2.0)  # the workers have started by then
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    # If it was done before the signal came, there is nothing to be quiet about.
    assert child.returncode in (0, INTERRUPTED)
    assert b"Traceback" not in out + err
