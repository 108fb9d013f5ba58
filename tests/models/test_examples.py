from __future__ import annotations

import json

import pytest

from moe_rules.models import derive_layers
from tests.models.checkpoints import CPU, EXAMPLES, H100

EXPECTED = {
    "DeepSeek-V3": ("fp8", 256, 8, 7168, 2048, 58, "DeepSeekV3"),
    "Mixtral-8x7B": ("unquantized", 8, 2, 4096, 14336, 32, "RenormalizeNaive"),
    "Qwen3-235B-A22B": ("unquantized", 128, 8, 4096, 1536, 94, "RenormalizeNaive"),
    "Qwen3-30B-A3B": ("unquantized", 128, 8, 2048, 768, 48, "RenormalizeNaive"),
    "Qwen3-30B-A3B-FP8": ("fp8", 128, 8, 2048, 768, 48, "RenormalizeNaive"),
    "Qwen3-30B-A3B-GPTQ-Int4": ("int_wna16", 128, 8, 2048, 768, 48, "RenormalizeNaive"),
    "gpt-oss-120b": ("mxfp4", 128, 4, 2880, 2880, 36, "RenormalizeNaive"),
    "toy-moe": ("unquantized", 8, 2, 256, 512, 2, "RenormalizeNaive"),
}


def test_every_example_is_expected() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.json")} == set(EXPECTED)


@pytest.mark.parametrize("machine", [H100, CPU])
@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, machine: dict[str, object]) -> None:
    config = json.loads((EXAMPLES / f"{name}.json").read_bytes())
    (layer,) = derive_layers(config, machine)
    moe = layer.moe
    assert EXPECTED[name] == (
        layer.oracle,
        moe.num_experts,
        moe.experts_per_token,
        moe.hidden_dim,
        moe.intermediate_size,
        len(layer.layers),
        moe.routing_method,
    )
