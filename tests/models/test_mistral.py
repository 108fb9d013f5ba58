"""params.json: what vLLM 0.33.0 builds of it, as its own classes did when run on these."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, derive_layers
from moe_rules.models.mistral import config_of
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tests.models.checkpoints import H100

LARGE = {
    "dim": 7168,
    "n_layers": 61,
    "n_heads": 128,
    "hidden_dim": 16384,
    "max_position_embeddings": 128000,
    "qk_nope_head_dim": 128,
    "llama_4_scaling": {"original_max_position_embeddings": 8192, "beta": 0.1},
    "moe": {
        "num_experts": 128,
        "num_experts_per_tok": 4,
        "expert_hidden_dim": 4096,
        "num_shared_experts": 1,
        "first_k_dense_replace": 3,
        "num_expert_groups": 1,
        "num_expert_groups_per_tok": 1,
        "route_every_n": 1,
    },
    "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"},
}
SMALL = {"dim": 4096, "n_layers": 4, "n_heads": 32, "hidden_dim": 14336, "head_dim": 128}
MIXTRAL = {**SMALL, "moe": {"num_experts_per_tok": 2, "num_experts": 8}}


def test_a_model_with_shared_experts() -> None:
    (layer,) = derive_layers(config_of(LARGE), H100)
    assert layer.layers == tuple(range(3, 61))
    assert layer.module == "model.layers.3.mlp.experts"
    moe = layer.moe
    assert (moe.num_experts, moe.experts_per_token) == (128, 4)
    assert (moe.hidden_dim, moe.intermediate_size) == (7168, 4096)
    assert (moe.routing_method, moe.router_logits_dtype) == ("RenormalizeNaive", "bf16")
    key = NAMED_KEYS["kFp8StaticTensorSym"]
    assert (layer.oracle, layer.weight_key, layer.activation_key) == ("fp8", key, key)
    assert layer.runtime == {"model_type": "deepseek_v3"}


def test_activations_that_are_scaled_at_run_time() -> None:
    params = {**LARGE, "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "NO_SCALES"}}
    (layer,) = derive_layers(config_of(params), H100)
    assert layer.activation_key == NAMED_KEYS["kFp8DynamicTensorSym"]


@pytest.mark.parametrize(
    "vision", [{"vision_encoder": {}}, {"multimodal": {"vision_encoder_args": {}}}]
)
def test_a_model_that_sees(vision: dict[str, Any]) -> None:
    (layer,) = derive_layers(config_of({**LARGE, **vision}), H100)
    assert layer.module == "language_model.model.layers.3.mlp.experts"
    assert layer.oracle == "fp8"


def test_without_shared_experts_the_model_class_needs_a_config_json() -> None:
    with pytest.raises(CheckpointRefusedError, match="reads num_local_experts"):
        config_of(MIXTRAL)
    beside = {"num_local_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 32}
    (layer,) = derive_layers(config_of(MIXTRAL, beside), H100)
    assert layer.layers == (0, 1, 2, 3)
    assert layer.module == "model.layers.0.block_sparse_moe.experts"


@pytest.mark.parametrize("more", [{}, {"qk_nope_head_dim": 64}, {"moe": {}}])
def test_a_dense_model(more: dict[str, Any]) -> None:
    assert derive_layers(config_of({**SMALL, **more}), H100) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"llama_4_scaling": None}, "expects llama_4_scaling"),
        ({"quantization": {"qformat_weight": "int4"}}, "no such quantization"),
        ({"quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "X"}}, "NO_SCALES"),
        ({"moe": {"num_shared_experts": 1}}, r"moe\.num_experts"),
        ({"moe": [1]}, "moe must be a mapping"),
    ],
)
def test_what_vllm_does_not_take(change: dict[str, Any], why: str) -> None:
    with pytest.raises(CheckpointRefusedError, match=why):
        config_of({**LARGE, **change})


def test_compressed_tensors_are_taken_as_they_are() -> None:
    block = {"quant_method": "compressed_tensors", "config_groups": {}}
    assert config_of({**LARGE, "quantization": block})["quantization_config"] == block
