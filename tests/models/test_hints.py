from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import derive_layers
from tests.models.checkpoints import FP8_BLOCKS, FP8_TOKENS, FP8_WEIGHTS, H100, compressed, qwen3


def notes(quantization: dict[str, Any]) -> set[str]:
    layers = derive_layers(qwen3(quantization), H100)
    return {note for layer in layers for note in layer.notes}


def targets(*names: str) -> dict[str, Any]:
    block = compressed(FP8_WEIGHTS, FP8_TOKENS, "float-quantized")
    block["config_groups"]["group_0"]["targets"] = list(names)
    return block


MIXED = {
    "quant_method": "modelopt",
    "quant_algo": "MIXED_PRECISION",
    "quantized_layers": {"model.layers.0.self_attn.o_proj": {"quant_algo": "FP8"}},
}


@pytest.mark.parametrize(
    "quantization",
    [
        targets(r"re:.*block_sparse_moe\.experts\.[0-9]+\.w[123]$"),
        targets("re:.*self_attn.*", "re:.*mlp.down_proj$"),
        MIXED,
    ],
)
def test_a_quantized_checkpoint_that_names_no_experts(quantization: dict[str, Any]) -> None:
    (note,) = notes(quantization)
    assert "model.layers.0.mlp.experts.0.gate_proj" in note


@pytest.mark.parametrize(
    "quantization",
    [
        targets("Linear"),
        {**targets("Linear"), "ignore": ["re:.*experts.*"]},
        {**targets("re:.*gate_proj", "re:.*up_proj"), "ignore": ["re:.*experts.*"]},
        {**FP8_BLOCKS, "modules_to_not_convert": ["mlp.experts"]},
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8"}}},
    ],
)
def test_no_hint_where_experts_are_quantized_or_left_out(quantization: dict[str, Any]) -> None:
    assert notes(quantization) == set()


@pytest.mark.parametrize("method", [{}, {"quant_method": ""}])
def test_a_quantization_block_that_names_no_method(method: dict[str, Any]) -> None:
    block = {name: value for name, value in FP8_BLOCKS.items() if name != "quant_method"}
    (note,) = notes({**block, **method})
    assert note.startswith("config.json: quantization_config has no quant_method")


def test_no_hint_without_a_quantization_block() -> None:
    assert all(layer.notes == () for layer in derive_layers(qwen3(), H100))
