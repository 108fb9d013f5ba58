"""What 0, null and an absent field mean for limits and alphas, class by class."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, Deployment, derive_layers
from tests.models.checkpoints import H100
from tests.models.test_model_edits import deepseek_v4, ling

ABSENT = object()


def limits(config: dict[str, Any], field: str, value: Any) -> dict[int, float | None]:
    """The clamp of each MoE layer of a model whose configuration has this value."""
    given = {} if value is ABSENT else {field: value}
    config = {name: old for name, old in config.items() if name != field}
    layers = derive_layers({**config, **given}, H100)
    found = {index: layer.moe.swiglu_limit for layer in layers for index in layer.layers}
    return dict(sorted(found.items()))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([0, 0, 0, 0.0, None, 10.0], [None, None, None, 10.0]),
        ([0, 0, 10], [10.0, None, None, None]),  # layers behind the list's end have none
        (None, [None] * 4),
        (ABSENT, [None] * 4),
    ],
)
def test_zero_is_no_clamp_of_ling(value: Any, expected: list[float | None]) -> None:
    config = {**ling({}), "quantization_config": None}
    assert list(limits(config, "expert_swiglu_limit_list", value).values()) == expected


@pytest.mark.parametrize("value", [10, 0, None])
def test_transformers_takes_the_limit_of_deepseek_v4_as_a_float_only(value: Any) -> None:
    with pytest.raises(CheckpointRefusedError, match=r"swiglu_limit must be a float"):
        derive_layers({**deepseek_v4(), "swiglu_limit": value}, H100)
    derive_layers({**deepseek_v4("DeepseekV41ForCausalLM"), "swiglu_limit": value}, H100)


@pytest.mark.parametrize("value", [None, 0, 7])
@pytest.mark.parametrize(
    ("architecture", "model_type", "field"),
    [
        ("GptOssForCausalLM", "gpt_oss", "swiglu_limit"),
        ("GptOssForCausalLM", "gpt_oss", "swiglu_alpha"),
        ("HYV4ForCausalLM", "hy_v4", "swiglu_limit"),
        ("MiniMaxM3VLForCausalLM", "minimax_m3_vl_text", "swiglu_limit"),
    ],
)
def test_other_classes_that_take_floats_only(
    architecture: str, model_type: str, field: str, value: Any
) -> None:
    config = {"architectures": [architecture], "model_type": model_type}
    with pytest.raises(CheckpointRefusedError, match=rf"{field} must be a float"):
        derive_layers({**config, field: value}, H100)
    derive_layers({**config, field: 7.0}, H100)


EXAONE = {
    "architectures": ["ExaoneMoeForCausalLM"],
    "model_type": "exaone_moe",
    "num_hidden_layers": 4,
    "mlp_layer_types": ["sparse"] * 4,
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [([0, -1.0, 7.0, 0.0], [None, None, 7.0, None]), (None, [None] * 4), (ABSENT, [None] * 4)],
)
def test_exaone_clamps_above_zero_only(value: Any, expected: list[float | None]) -> None:
    assert list(limits(EXAONE, "swiglu_limits", value).values()) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.0, 0.0), (10.0, 10.0), (ABSENT, 10.0)])
def test_deepseek_v4_hands_its_limit_on_as_it_is(value: Any, expected: float | None) -> None:
    config = {**deepseek_v4(), "quantization_config": None}
    assert set(limits(config, "swiglu_limit", value).values()) == {expected}


STEP = {
    "architectures": ["Step3p5ForCausalLM"],
    "model_type": "step3p5",
    "num_hidden_layers": 3,
    "mlp_layer_types": ["sparse"] * 3,
    "use_moe_router_bias": True,
    "need_fp32_gate": True,
    "norm_expert_weight": True,
}


@pytest.mark.parametrize("value", [[0, 7.0, None], [0, 7]])
def test_step_clamps_at_seven_or_not_at_all(value: list[Any]) -> None:
    layers = derive_layers({**STEP, "swiglu_limits": value}, H100)
    found = {index: layer.moe.activation for layer in layers for index in layer.layers}
    assert found == {0: "silu", 1: "swiglustep", 2: "silu"}


@pytest.mark.parametrize("value", [[0, 10.0], [7, 7, 6.5]])
def test_any_other_limit_of_step_is_refused(value: list[Any]) -> None:
    with pytest.raises(CheckpointRefusedError, match="swiglu_limits"):
        derive_layers({**STEP, "swiglu_limits": value}, H100)


@pytest.mark.parametrize(("smallest", "size"), [(ABSENT, 256 * 8), (0, 1024), (64, 1024)])
def test_kimi_pads_shards_below_a_minimum(smallest: Any, size: int) -> None:
    config = {
        "architectures": ["KimiLinearForCausalLM"],
        "model_type": "kimi_linear",
        "num_hidden_layers": 1,
        "num_experts": 16,
        "num_experts_per_token": 2,
        "mla_use_nope": True,
        "moe_intermediate_size": 1024,
        **({} if smallest is ABSENT else {"min_moe_intermediate_per_partition": smallest}),
    }
    (layer,) = derive_layers(config, H100, Deployment(tensor_parallel_size=8))
    assert layer.moe.intermediate_size == size
