"""tune --from: the measured order of backends as an overlay, and the one that is packaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from moe_kernels.benchmark.report import Measurement, Results

from moe_rules.files.packaged import packaged_rules
from moe_rules.language.ruleset import load_platform, overlay_paths
from moe_rules.machines.machine import named_machines
from moe_rules.selectors.facts import layer_facts
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tests.cli.conftest import Command

FP8 = [
    "--machine", "h200", "--oracle", "fp8",
    "--weight", "kFp8Static128BlockSym", "--activation-key", "kFp8Dynamic128Sym",
    "--set", "num_experts=128", "--set", "experts_per_token=8",
    "--set", "hidden_dim=2048", "--set", "intermediate_size=768",
]  # fmt: skip

TIMES = {16: (100.0, 100.0), 256: (200.0, 210.0), 1024: (300.0, 200.0), 4096: (900.0, 500.0)}
"""Microseconds of the first and the second peer by number of tokens."""


def write_results(folder: Path, device: str = "NVIDIA H200") -> None:
    run = {"device": device, "date": "2026-11-28", "torch": "2", "triton": "3", "seed": 1}
    results = Results("ours", {**run, "peers": {"one": "One 1.0", "two": "Two 2.0"}})
    results.peer_kernels = {
        "one": ["TritonExperts"], "two": ["TritonOrDeepGemmExperts"],
    }  # fmt: skip
    for tokens, times in TIMES.items():
        for name, us in zip(("one", "two"), times, strict=True):
            for routing, factor in (("uniform", 1.0), ("skewed", 0.1)):
                point = ("fp8_block", "qwen3-30b-a3b", routing, tokens, name, us * factor)
                results.measurements.append(Measurement(*point, us, 5.0, "bytes", 1.0, 2.0, 1e-3))
    results.write(folder)


def test_results_of_a_benchmark_become_rules(cli: Command, tmp_path: Path) -> None:
    write_results(tmp_path / "bench")
    answer = cli("tune", "--from", tmp_path / "bench", "--out", tmp_path / "tuned")
    assert answer.code == 0, answer.err
    file = tmp_path / "tuned" / "rules" / "cuda-nvidia-h200.yaml"
    assert answer.out == f"wrote {file}\n"
    assert cli("check", file).code == 0
    selected = cli("select", *FP8, "--rules", file, "--format", "json").json
    assert [(r["first"], r["last"], r["backend"]) for r in selected["by_num_tokens"]] == [
        (1, 512, "TRITON"),
        (513, None, "DEEPGEMM"),
    ]
    (adjustment,) = yaml.safe_load(file.read_text())["oracles"]["fp8"]["adjust"]
    (evidence,) = adjustment["evidence"]
    assert evidence["device"] == "NVIDIA H200"
    assert evidence["versions"] == "torch 2, triton 3, kernels One 1.0; Two 2.0"
    assert evidence["figure"] == (
        "speed relative to TRITON: 1.50x with 1024 tokens (200 us), 1.80x with 4096 tokens (500 us)"
    )


def test_the_same_results_become_the_same_rules(cli: Command, tmp_path: Path) -> None:
    write_results(tmp_path / "bench")
    texts = []
    for name in ("a", "b"):
        cli("tune", "--from", tmp_path / "bench", "--out", tmp_path / name)
        texts.append((tmp_path / name / "rules" / "cuda-nvidia-h200.yaml").read_text())
    assert texts[0] == texts[1]


def test_what_cannot_become_rules_is_named(cli: Command, tmp_path: Path) -> None:
    answer = cli("tune", "--from", tmp_path, "--out", tmp_path / "tuned")
    assert answer.code == 2
    assert f"{tmp_path} holds no results of moe-rules bench" in answer.err
    write_results(tmp_path / "bench", "Voodoo 2")
    answer = cli("tune", "--from", tmp_path / "bench", "--out", tmp_path / "tuned")
    assert answer.code == 2
    assert "no named machine has a device called 'Voodoo 2'" in answer.err


def test_options_of_a_measurement_are_refused(cli: Command, tmp_path: Path) -> None:
    write_results(tmp_path / "bench")
    words = ["--from", tmp_path / "bench", "--out", tmp_path / "tuned"]
    answer = cli("tune", *words, "--tp", 4, "--set", "num_experts=8", "--resume")
    assert answer.code == 2
    assert "--from takes --out alone, and has no use for --tp, --set, --resume" in answer.err
    assert not (tmp_path / "tuned").exists()
    answer = cli("bench", "--report", "--out", tmp_path / "bench", "--tokens", 3)
    assert answer.code == 2
    assert "--report takes --out alone, and has no use for --tokens" in answer.err


def test_results_without_two_backends_leave_the_rules_of_an_earlier_run(
    cli: Command, tmp_path: Path
) -> None:
    write_results(tmp_path / "bench")
    cli("tune", "--from", tmp_path / "bench", "--out", tmp_path / "tuned")
    results = Results.read(tmp_path / "bench")
    results.peer_kernels = {"one": ["TritonExperts"], "two": []}
    results.write(tmp_path / "alone")
    answer = cli("tune", "--from", tmp_path / "alone", "--out", tmp_path / "tuned")
    assert (answer.code, answer.out) == (1, "")
    assert "no layer has times of two backends' kernels" in answer.err
    assert (tmp_path / "tuned" / "rules" / "cuda-nvidia-h200.yaml").exists()


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("measurements", 0, "us"), "fast", "measurements.0.us: "),
        (("measurements", 0, "us"), 0, "measurements.0.us: "),
        (("measurements", 0, "shape"), [], "measurements.0.shape: "),
        (("measurements", 0, "num_tokens"), None, "measurements.0.num_tokens: "),
        (("peer_kernels",), [], "peer_kernels: "),
        (("run", "peers"), [], "run.peers is no text for each peer"),
    ],
)
def test_broken_results_are_named(
    cli: Command, tmp_path: Path, place: tuple[Any, ...], value: Any, said: str
) -> None:
    write_results(tmp_path)
    file = tmp_path / "layers.json"
    inner = plain = json.loads(file.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    file.write_text(json.dumps(plain))
    answer = cli("tune", "--from", tmp_path, "--out", tmp_path / "tuned")
    assert answer.code == 2
    assert f"{tmp_path} holds no results of moe-rules bench: " in answer.err
    assert said in answer.err


def packaged() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for file in sorted((packaged_rules() / "overlays" / "measured").glob("cuda*.yaml")):
        for oracle, entry in yaml.safe_load(file.read_text())["oracles"].items():
            found += [(oracle, adjustment) for adjustment in entry["adjust"]]
    return found


def order(oracle: str, when: dict[str, Any], tokens: int, *overlays: str) -> list[str]:
    """The order of backends in calls of ``tokens`` on the layer that a rule is for."""
    facts = dict(when)
    facts.pop("num_tokens", None)
    device, names = facts.pop("device_name"), ("weight_key", "activation_key")
    keys = {name: NAMED_KEYS.get(facts.pop(name)) for name in names}
    ep_size = facts.pop("ep_size")
    parallel = FusedMoEParallelConfig(ep_size=ep_size, use_ep=ep_size > 1)
    facts["intermediate_size"] = facts.pop("intermediate_size_per_partition")
    moe = FusedMoEConfig(**facts, moe_parallel_config=parallel)
    named = next(m for m in named_machines().values() if m.platform.get("device_name") == device)
    rules = load_platform("cuda", overlay_paths(overlays))
    selector = Selector(rules, named.machine().facts())
    return list(selector.decide(oracle, {**layer_facts(moe), **keys, "num_tokens": tokens}).order)


@pytest.mark.parametrize(("oracle", "rule"), packaged())
def test_the_packaged_order_is_that_of_its_evidence(oracle: str, rule: dict[str, Any]) -> None:
    name, other = rule["move"], rule["before"]
    (evidence,) = rule["evidence"]
    assert evidence["device"] == rule["when"]["device_name"]
    measured = re.findall(r"([\d.]+)x with (\d+) tokens", evidence["figure"])
    assert measured
    for ratio, tokens in measured:
        assert float(ratio) > 1.0
        before = order(oracle, rule["when"], int(tokens))
        assert before.index(other) < before.index(name), "the packaged rules say so already"
        after = order(oracle, rule["when"], int(tokens), "measured")
        assert after.index(name) < after.index(other)


def test_the_packaged_overlay_passes_check(cli: Command) -> None:
    assert packaged()
    by_path = cli("check", packaged_rules() / "overlays" / "measured")
    assert by_path.code == 0, by_path.out
    assert cli("check", "measured").out == by_path.out
