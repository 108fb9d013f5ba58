from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, Deployment, derive_layers
from moe_rules.models.errors import ConfigValueError
from tests.models.checkpoints import FP8_BLOCKS, H100

OLMOE = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "dtype": "bfloat16",
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_attention_heads": 16,
    "num_hidden_layers": 4,
}
PRUNED = {**OLMOE, "approximate_experts": {"0": [1, 5, 9], "2": list(range(32)), "3": []}}


def declared(**changes: Any) -> dict[str, Any]:
    target = {
        "weight_layout": "compact_retained_experts",
        "replacements": {
            "7": {"format": "constant-v1", "tensors": {"value": "a"}},
            "8": {"format": "constant-v1", "tensors": {"value": "b"}},
        },
    }
    substitution = {
        "version": 1,
        "router_semantics": {
            "preserve_logical_expert_ids": True,
            "preserve_router_weights": True,
            "renormalize_after_substitution": False,
        },
        "targets": {"model.layers.1.mlp.experts": target},
        **changes,
    }
    transform = {"expert_substitution": substitution}
    return {**OLMOE, "compression_config": {"transform_config": transform}}


def counts(config: dict[str, Any]) -> dict[tuple[int, ...], tuple[int, bool]]:
    return {
        layer.layers: (layer.moe.num_experts, layer.moe.require_decomposed_backend)
        for layer in derive_layers(config, H100)
    }


def test_experts_that_are_left() -> None:
    assert counts(PRUNED) == {(0,): (61, True), (1, 3): (64, False), (2,): (32, True)}


def test_a_list_for_no_layer_changes_nothing() -> None:
    assert counts({**OLMOE, "approximate_experts": {}}) == counts(OLMOE)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([1, 2], r" must be a mapping, not \[1, 2\]"),
        ({"first": [1]}, ".first must be an index, not 'first'"),
        ({"0": 7}, ".0 must be a list, not 7"),
        ({"0": [1.5]}, ".0.0 must be an integer, not 1.5"),
    ],
)
def test_indices_of_another_type(given: object, why: str) -> None:
    with pytest.raises(ConfigValueError, match=f"config.json: approximate_experts{why}"):
        derive_layers({**PRUNED, "approximate_experts": given}, H100)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"approximate_experts": {"0": [1, 1]}}, "unique"),
        ({"approximate_experts": {"0": [-1]}}, "not negative"),
        ({"approximate_experts": {"0": [64]}}, "no expert 64"),
        ({"approximate_experts": {"0": list(range(64))}}, "at least one expert"),
        ({"quantization_config": FP8_BLOCKS}, "quantized experts"),
    ],
)
def test_what_vllm_does_not_take(change: dict[str, Any], why: str) -> None:
    with pytest.raises(CheckpointRefusedError, match=why) as refused:
        derive_layers({**PRUNED, **change}, H100)
    assert refused.value.stage == "model"


@pytest.mark.parametrize(
    ("deployment", "why"),
    [
        (Deployment(enable_lora=True), "LoRA"),
        (Deployment(tensor_parallel_size=2, enable_expert_parallel=True), "expert parallelism"),
        (Deployment(data_parallel_size=2), "data parallelism"),
        (Deployment(prefill_context_parallel_size=2), "prefill context parallelism"),
    ],
)
def test_deployments_that_do_not_go_with_replaced_experts(deployment: Deployment, why: str) -> None:
    with pytest.raises(CheckpointRefusedError, match=f"do not go with .*{why}"):
        derive_layers(PRUNED, H100, deployment)


def test_model_classes_with_experts_of_their_own() -> None:
    config = {**OLMOE, "architectures": ["FlexOlmoForCausalLM"], "model_type": "flex_olmo"}
    assert counts(config)
    with pytest.raises(CheckpointRefusedError, match="experts class"):
        derive_layers({**config, "approximate_experts": {"0": [1]}}, H100)


def test_tensor_parallelism_goes_with_replaced_experts() -> None:
    assert len(derive_layers(PRUNED, H100, Deployment(tensor_parallel_size=2))) == 3


def test_a_declared_substitution() -> None:
    config = declared()
    config["compression_config"].update(quant_method="compressed-tensors", config_groups={})
    assert counts(config) == {(0, 2, 3): (64, False), (1,): (62, True)}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 2}, "version 1"),
        ({"router_semantics": {}}, "leave the routing as it is"),
        ({"targets": [1]}, r"targets must be a mapping, not \[1\]"),
        ({"targets": {"model.experts": {"replacements": {}}}}, "one decoder layer"),
        ({"targets": {"model.layers.1": {}}}, "layers.1.replacements must be given, not absent"),
        ({"targets": {"model.layers.1": {"replacements": {}}}}, "compact_retained_experts"),
        ({"targets": {"model.layers.1": 3}}, "layers.1 must be a mapping, not 3"),
    ],
)
def test_a_declaration_that_vllm_does_not_read(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(CheckpointRefusedError, match=why):
        derive_layers(declared(**changes), H100)


def test_only_one_way_of_declaring() -> None:
    with pytest.raises(CheckpointRefusedError, match="exclude each other"):
        derive_layers({**declared(), "approximate_experts": {}}, H100)
