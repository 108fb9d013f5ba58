"""Lists with an entry for each decoder layer, as transformers' configuration classes take them."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, derive_layers
from tests.models.checkpoints import H100, qwen3

FULL = ["full_attention"] * 4
MINIMAX_M3 = {
    "architectures": ["MiniMaxM3VLForCausalLM"],
    "model_type": "minimax_m3_vl_text",
    "num_hidden_layers": 4,
    "layer_types": FULL,
}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (qwen3(layer_types=FULL[:3]), "layer_types has 3 entries for 4 decoder layers"),
        (qwen3(layer_types=FULL, num_hidden_layers=2), "4 entries for 2"),
        ({**MINIMAX_M3, "mlp_layer_types": ["sparse"] * 5}, "mlp_layer_types has 5 entries"),
        ({**MINIMAX_M3, "mlp_layer_types": ["moe"] * 4}, "holds 'moe'; expected dense or sparse"),
        (
            {
                "architectures": ["DeepseekV4ForCausalLM"],
                "model_type": "deepseek_v4",
                "num_hidden_layers": 2,
                "mlp_layer_types": ["dense", "moe"],
            },
            "holds 'dense'; expected hash_moe or moe",
        ),
    ],
)
def test_a_list_that_the_class_refuses(config: dict[str, Any], why: str) -> None:
    with pytest.raises(CheckpointRefusedError, match=why):
        derive_layers(config, H100)


def test_a_list_that_the_class_does_not_look_at() -> None:
    (layer,) = derive_layers(qwen3(layer_types=FULL, mlp_layer_types=["sparse"]), H100)
    assert layer.layers == (0, 1, 2, 3)


def test_minimax_m3_through_transformers_has_dense_layers() -> None:
    types = ["dense", "sparse", "dense", "sparse"]
    (layer,) = derive_layers({**MINIMAX_M3, "mlp_layer_types": types}, H100)
    assert layer.layers == (1, 3)
