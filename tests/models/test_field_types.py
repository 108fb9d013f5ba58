"""Values of fields that transformers' configuration classes, or vLLM's models, do not take."""

from __future__ import annotations

import typing
from dataclasses import fields
from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, Deployment, derive_layers, load_tables
from moe_rules.models.errors import ConfigValueError
from tests.models.checkpoints import H100, qwen3

CLASSES = load_tables().architectures["config_classes"]
TYPED = {name: row["types"] for name, row in CLASSES.items() if row.get("types")}
OF_VLLM = [name for name, row in CLASSES.items() if row.get("of_vllm")]
"""Model types for which vLLM takes another class than transformers."""


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_experts", None, "num_experts must be an integer, not None"),
        ("num_experts", True, "must be an integer, not True"),
        ("norm_topk_prob", 1, "must be true or false, not 1"),
        ("hidden_act", None, "must be text, not None"),
        ("router_aux_loss_coef", 0, r"must be a float .*, not 0"),
    ],
)
def test_another_type_is_refused(field: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigValueError, match=said):
        derive_layers(qwen3(**{field: value}), H100)


def test_a_class_that_is_not_known_takes_what_there_is() -> None:
    config = {**qwen3(router_aux_loss_coef=0), "model_type": "my_moe"}
    assert [layer.layers for layer in derive_layers(config, H100)] == [(0, 1, 2, 3)]


@pytest.mark.parametrize(("model_type", "of_vllm"), [("deepseek_v3", False), ("kimi_k2", True)])
def test_a_class_of_the_checkpoints_own_takes_what_there_is(
    model_type: str, *, of_vllm: bool
) -> None:
    config = {
        **qwen3(n_routed_experts=64, first_k_dense_replace=0, routed_scaling_factor=1),
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": model_type,
    }
    own = {**config, "auto_map": {"AutoConfig": "configuration_mine.MyConfig"}}
    for refused in (config, own) if of_vllm else (config,):
        with pytest.raises(ConfigValueError, match="routed_scaling_factor must be a float"):
            derive_layers(refused, H100)
    if not of_vllm:
        assert derive_layers(own, H100)


@pytest.mark.parametrize("model_type", [name for name in TYPED if name not in OF_VLLM])
def test_types_are_those_of_transformers(model_type: str) -> None:
    torch = pytest.importorskip("torch")
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    if model_type not in auto.CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    config_class = auto.CONFIG_MAPPING[model_type]
    hints = typing.get_type_hints(config_class, localns={"torch": torch})
    theirs = {one.name: hints[one.name] for one in fields(config_class)}
    ours = {name: kind for kind, names in TYPED[model_type].items() for name in names}
    assert ours == {name: theirs[name].__name__ for name in ours}


@pytest.mark.parametrize(
    ("architecture", "refused"),
    [
        ("Qwen2MoeForCausalLM", True),
        ("Qwen3NextForCausalLM", True),
        ("JambaForCausalLM", True),
        ("Qwen3MoeForCausalLM", False),  # its experts do not ask
        ("MixtralForCausalLM", False),
    ],
)
def test_activations_that_a_model_class_does_not_take(architecture: str, *, refused: bool) -> None:
    config = {
        **qwen3(hidden_act="gelu"),
        "architectures": [architecture],
        "model_type": "my_moe",
        "num_local_experts": 8,
        "intermediate_size": 512,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
    }
    if refused:
        with pytest.raises(CheckpointRefusedError, match=r"hidden_act is 'gelu'.* takes silu only"):
            derive_layers(config, H100)
    else:
        assert derive_layers(config, H100)


def test_ranks_share_the_rows_of_the_embedding() -> None:
    config = qwen3(num_attention_heads=48)
    for vocabulary, ranks, divided in ((151936, 2, True), (151936, 3, False), (192, 3, True)):
        given = {**config, "vocab_size": vocabulary}
        if divided:
            assert derive_layers(given, H100, Deployment(tensor_parallel_size=ranks))
        else:
            with pytest.raises(CheckpointRefusedError, match="not divisible by tensor parallel"):
                derive_layers(given, H100, Deployment(tensor_parallel_size=ranks))


@pytest.mark.parametrize("missing", ["n_group", "topk_group"])
@pytest.mark.parametrize("model_type", ["deepseek_v2", "deepseek_v3", "my_moe"])
def test_a_router_by_groups_needs_their_numbers(model_type: str, missing: str) -> None:
    groups = {"n_group": 8, "topk_group": 4}
    config = {
        **qwen3(n_routed_experts=64, first_k_dense_replace=0),
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": model_type,
    }
    assert derive_layers({**config, **groups}, H100)
    with pytest.raises(CheckpointRefusedError, match=rf"no number of them \({missing}\)"):
        derive_layers({**config, **groups, missing: None}, H100)
    del groups[missing]
    if model_type == "deepseek_v2":  # whose class has none by default, as others have
        with pytest.raises(CheckpointRefusedError, match=rf"no number of them \({missing}\)"):
            derive_layers({**config, **groups}, H100)
    else:
        assert derive_layers({**config, **groups}, H100)
