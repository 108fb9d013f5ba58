"""A value of the wrong type is an error that says where it stands and what was expected."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import derive_layers
from moe_rules.models.conditions import Context, holds
from moe_rules.models.errors import ConfigValueError
from moe_rules.models.typed import (
    Kind,
    anything,
    below,
    entries,
    flag,
    indices,
    integer,
    number,
    positive,
    read,
    shown,
    text,
)
from tests.models.checkpoints import GPTQ, H100, qwen3
from tests.models.fuzzing import BLOCKS, DEEP, Path, fields_for, spoilt


@pytest.mark.parametrize(
    ("kind", "value", "taken"),
    [
        (flag, False, False),
        (integer, -1, -1),
        (positive, 2**63 - 1, 2**63 - 1),
        (number, 7, 7.0),
        (text, "", ""),
        (indices, [3, 4, 3], {3, 4}),
        (indices, "3, 4,", {3, 4}),
        (entries, "ME*", "ME*"),
        (entries, [0, "moe", None], [0, "moe", None]),
        (anything, DEEP, DEEP),
    ],
)
def test_what_a_kind_takes(kind: Kind, value: Any, taken: Any) -> None:
    assert read(kind, value, "x") == taken


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (flag, 1, "must be true or false, not 1"),
        (integer, True, "must be an integer, not True"),
        (integer, 8.0, "must be an integer, not 8.0"),
        (integer, 1 << 999, "must be less than 9223372036854775808, not <integer of 1000 bits>"),
        (positive, 0, "must be at least 1, not 0"),
        (number, float("nan"), "must be a finite number, not nan"),
        (number, True, "must be a number, not True"),
        (text, ["a"], "must be text, not ['a']"),
        (indices, "3,x", "must be a list of layer indices, not '3,x'"),
        (indices, {}, "must be a list of layer indices, not {}"),
        (indices, [0, "1"], "x.1 must be an integer, not '1'"),
        (entries, 3, "must be text or a list, with an entry for each layer, not 3"),
    ],
)
def test_what_it_does_not_take(kind: Kind, value: Any, message: str) -> None:
    with pytest.raises(ConfigValueError) as caught:
        read(kind, value, "config.json: x")
    assert message in str(caught.value)
    assert caught.value.where.startswith("config.json: x")


def test_places() -> None:
    assert below("config.json") == "config.json"
    assert below(below("config.json", "text_config"), "a", 0) == "config.json: text_config.a.0"


def test_values_are_shown_short_however_great_or_deep() -> None:
    assert len(shown("a" * 10**6)) < 100
    assert len(shown(DEEP)) < 100
    assert shown([10**5000]) == "[<integer of 16610 bits>]"


QUANTIZATION: list[tuple[str, Path, object, str]] = [
    ("gptq", ("group_size",), [1], "group_size must be an integer, not [1]"),
    ("gptq", ("dynamic", "+:.*layers.1"), 8, "dynamic.+:.*layers.1 must be a mapping, not 8"),
    ("gptq", ("dynamic",), {"+:(": {}}, "dynamic.+:( must be a regular expression"),
    ("awq", ("q_group_size",), "128", "q_group_size must be an integer, not '128'"),
    ("fp8", ("weight_block_size",), [128, 0], "weight_block_size.1 must be at least 1, not 0"),
    ("fp8", ("weight_block_size",), [128], "weight_block_size must be a list of 2, not [128]"),
    ("fp8", ("modules_to_not_convert", 0), None, "modules_to_not_convert.0 must be text, not None"),
    ("auto-round", ("block_name_to_quantize",), [["a"]], "block_name_to_quantize.0 must be text"),
    (
        "auto-round",
        ("extra_config", "model.layers.1.mlp.experts", "bits"),
        None,
        "extra_config.model.layers.1.mlp.experts.bits must be an integer, not None",
    ),
    ("modelopt", ("config_groups", "group_0"), 1, "config_groups.group_0 must be a mapping, not 1"),
    ("modelopt-nested", ("quantization",), [], "quantization must be a mapping, not []"),
    ("quark", ("exclude", 0), 7, "exclude.0 must be text, not 7"),
    (
        "quark",
        ("global_quant_config", "weight", "group_size"),
        "32",
        "global_quant_config.weight.group_size must be an integer, not '32'",
    ),
    (
        "quark",
        ("layer_quant_config", "*layers.3*", "weight", 0),
        0.5,
        "layer_quant_config.*layers.3*.weight.0 must be a mapping, not 0.5",
    ),
    (
        "compressed-int4",
        ("config_groups", "group_0", "weights", "actorder"),
        3,
        "config_groups.group_0.weights.actorder must be true, false or text, not 3",
    ),
]


@pytest.mark.parametrize(("name", "path", "junk", "message"), QUANTIZATION)
def test_the_path_into_a_quantization_block(
    name: str, path: Path, junk: object, message: str
) -> None:
    config = spoilt(qwen3(BLOCKS[name]), ("quantization_config", *path), junk)
    with pytest.raises(ConfigValueError) as caught:
        derive_layers(config, H100)
    assert f"config.json: quantization_config.{message}" in str(caught.value)


def test_the_path_names_the_file_and_the_part_that_hold_the_block() -> None:
    with pytest.raises(ConfigValueError, match=r"^hf_quant_config\.json: bits must be"):
        derive_layers(qwen3(), H100, hf_quant_config={**GPTQ, "bits": "4"})
    text = qwen3({**GPTQ, "bits": "4"})
    nested = {**{name: text[name] for name in ("architectures", "model_type")}, "text_config": text}
    with pytest.raises(ConfigValueError, match=r"text_config\.quantization_config\.bits must be"):
        derive_layers(nested, H100)


ARCHITECTURES: list[tuple[str, Path, object, str]] = [
    ("Qwen3MoeForCausalLM", ("num_experts",), [1], "num_experts must be an integer, not [1]"),
    ("Qwen3MoeForCausalLM", ("hidden_size",), -1, "hidden_size must be at least 1, not -1"),
    ("Qwen3MoeForCausalLM", ("norm_topk_prob",), 1, "norm_topk_prob must be true or false, not 1"),
    ("Qwen3MoeForCausalLM", ("architectures",), "a", "architectures must be a list, not 'a'"),
    ("Qwen3MoeForCausalLM", ("dtype",), {}, "dtype must be text, not {}"),
    ("DbrxForCausalLM", ("ffn_config", "moe_top_k"), "2", "ffn_config.moe_top_k must be an int"),
    ("DeepseekV3ForCausalLM", ("n_group",), 0.5, "n_group must be an integer, not 0.5"),
]


@pytest.mark.parametrize(("name", "path", "junk", "message"), ARCHITECTURES)
def test_the_path_to_a_field(name: str, path: Path, junk: object, message: str) -> None:
    fields = spoilt({"architectures": [name], **fields_for(name)}, path, junk)
    nested = {"architectures": [name], "model_type": "my_moe", "text_config": fields}
    for config, place in ((fields, "config.json: "), (nested, "config.json: text_config.")):
        with pytest.raises(ConfigValueError) as caught:
            derive_layers(config, H100)
        assert f"{place}{message}" in str(caught.value)


def test_what_is_compared_must_be_a_number() -> None:
    context = Context({"limits": [1, "a"]})
    assert holds({"limits.0": {"at_least": 1, "below": 2}}, context)
    assert not holds({"absent": {"at_least": 1}}, context)
    with pytest.raises(ConfigValueError, match=r"limits\.1 must be a number, not 'a'"):
        holds({"limits.1": {"below": 2}}, context)


def test_the_path_has_the_name_that_the_file_uses() -> None:
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "num_local_experts": "8",
    }
    with pytest.raises(ConfigValueError, match=r"config\.json: num_local_experts must be"):
        derive_layers(config, H100)


def test_numbers_that_are_not_read_may_be_infinite() -> None:
    (layer,) = derive_layers(qwen3(time_step_limit=[0.0, float("inf")]), H100)
    assert layer.moe.num_experts == 128
