from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from moe_rules.conformance.cases import platform_facts
from moe_rules.conformance.derivations import (
    Comparison,
    compare_line,
    derived_lines,
    plain_facts,
)
from moe_rules.models import derive_layers
from tests.models.checkpoints import FP8_BLOCKS, GPTQ, H100, qwen3

HERE = {
    "platform": {"name": "h100", "kind": "cuda", "capability": [9, 0]},
    "deployment": {"name": "one"},
}


def record(model: str, config: dict[str, Any]) -> dict[str, Any]:
    """A record that says what is derived."""
    (layer,) = derive_layers(config, H100)
    keys = (layer.weight_key, layer.activation_key)
    weight, activation = (None if key is None else key.to_dict() for key in keys)
    return {
        **HERE,
        "model": model,
        "status": "oracle",
        "layer": layer.module,
        "moe": plain_facts(layer.moe),
        "oracle": layer.oracle,
        "weight": weight,
        "activation": activation,
        "options": dict(layer.options),
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    configs = {
        "plain": qwen3(),
        "blocks": qwen3(FP8_BLOCKS),
        "asymmetric": qwen3({**GPTQ, "sym": False}),
    }
    for name, config in configs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"config": config}))
    refused = {
        **HERE,
        "model": "asymmetric",
        "status": "refused",
        "refused": {"error_message": "asymmetric"},
    }
    write(tmp_path, [record(name, configs[name]) for name in ("plain", "blocks")] + [refused])
    return tmp_path


def write(directory: Path, records: list[dict[str, Any]]) -> None:
    path = directory / "decisions" / "all.jsonl.gz"
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt") as lines:
        lines.writelines(json.dumps(one) + "\n" for one in records)


def compared(directory: Path, oracles: list[str] | None = None) -> Comparison:
    comparison = Comparison()
    for line in derived_lines(directory, oracles):
        compare_line(line, comparison)
    return comparison


def test_agreement(directory: Path) -> None:
    comparison = compared(directory)
    assert comparison.agrees
    assert comparison.to_dict() == {
        "models": {
            "facts": {"agree": 2, "total": 2},
            "scheme": {"agree": 2, "total": 2},
            "refused": {"agree": 1, "total": 1},
        }
    }


def test_a_filter_keeps_the_records_of_its_oracles(directory: Path) -> None:
    counts = compared(directory, ["fp8"]).to_dict()["models"]
    assert [counts[what]["total"] for what in ("facts", "scheme", "refused")] == [1, 1, 0]


def test_disagreements_are_told(directory: Path) -> None:
    plain = record("plain", qwen3())
    plain["moe"]["num_experts"] = 64
    plain["oracle"] = "fp8"
    wrong = {**record("plain", qwen3()), "model": "asymmetric"}
    refused = {**HERE, "model": "plain", "status": "refused", "refused": {"error_message": "no"}}
    write(directory, [plain, wrong, refused])
    comparison = compared(directory)
    assert [one.agree for one in comparison.counts.values()] == [0, 0, 0]
    told = "\n".join(comparison.disagreements)
    assert "num_experts: ours 128, recorded 64" in told
    assert "oracle: ours unquantized, recorded fp8" in told
    assert "ours refused: GPTQ weights must be symmetric" in told
    assert "recorded refused (no)" in told


def test_each_record_comes_with_its_layer(directory: Path) -> None:
    lines = list(derived_lines(directory))
    assert [line.layer is not None for line in lines] == [True, True, False]
    assert lines[0].where == "all.jsonl.gz:1 plain h100 one"
    assert str(lines[2].refusal) == "GPTQ weights must be symmetric"


def test_platform_facts_of_a_record() -> None:
    platform = {"kind": "rocm", "capability": [9, 4], "gcn_arch": "gfx942", "device": "MI300X"}
    assert platform_facts(platform) == {
        "device": "rocm",
        "compute_capability": (9, 4),
        "gfx": "gfx942",
        "device_name": "MI300X",
        "cpu_arch": None,
        "os": "linux",
        **dict.fromkeys(("zen", "amx_tile", "amx_fp8"), False),
    }
    assert platform_facts({"kind": "oot"})["device"] == "out_of_tree"
