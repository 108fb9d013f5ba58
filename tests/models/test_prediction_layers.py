"""Layers of multi-token prediction, which a checkpoint may quantize otherwise than the others."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import derive_layers
from tests.models.checkpoints import FP8_BLOCKS, H100, qwen3

DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "num_hidden_layers": 4,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 2,
}
QWEN = qwen3(
    architectures=["Qwen3_5MoeForCausalLM"], model_type="qwen3_5_moe_text", mtp_num_hidden_layers=1
)


def found(config: dict[str, Any], *left_out: str) -> list[tuple[Any, ...]]:
    block = {**FP8_BLOCKS, "modules_to_not_convert": list(left_out)}
    layers = derive_layers({**config, "quantization_config": block}, H100)
    return [(layer.layers, layer.module, layer.oracle) for layer in layers]


def test_layers_that_are_quantized_apart_are_of_their_own() -> None:
    assert found(DEEPSEEK, "model.layers.4.mlp.experts", "model.layers.5.mlp.experts") == [
        ((1, 2, 3), "model.layers.1.mlp.experts", "fp8"),
        ((4, 5), "model.layers.4.mlp.experts", "unquantized"),
    ]
    assert found(QWEN, "mtp.layers.0.mlp.experts") == [
        ((0, 1, 2, 3), "model.layers.0.mlp.experts", "fp8"),
        ((4,), "mtp.layers.0.mlp.experts", "unquantized"),
    ]


def test_a_note_says_what_they_are() -> None:
    block = {**FP8_BLOCKS, "modules_to_not_convert": ["mtp.layers.0.mlp.experts"]}
    layers = derive_layers({**QWEN, "quantization_config": block}, H100)
    assert [any("multi-token" in note for note in one.notes) for one in layers] == [False, True]


@pytest.mark.parametrize("config", [DEEPSEEK, QWEN])
def test_layers_that_are_quantized_alike_are_not_listed(config: dict[str, Any]) -> None:
    assert len(found(config)) == 1
    assert len(derive_layers(config, H100)) == 1
    assert len(found({**config, "num_nextn_predict_layers": 0, "mtp_num_hidden_layers": 0})) == 1


def test_a_draft_model_is_asked_for_by_its_model() -> None:
    with pytest.raises(ValueError, match="a draft model, which vLLM builds beside Deepseek"):
        derive_layers({**DEEPSEEK, "architectures": ["DeepSeekMTPModel"]}, H100)
