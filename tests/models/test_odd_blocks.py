"""Quantization blocks with nulls, gaps, unknown fields and values of other types."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, Deployment, derive_layers
from tests.models.checkpoints import (
    AUTO_ROUND,
    FP8_BLOCKS,
    FP8_TOKENS,
    FP8_WEIGHTS,
    GPTQ,
    H100,
    INT4,
    NVFP4,
    QUARK,
    asked,
    compressed,
    one,
    qwen3,
)

FP8 = compressed(FP8_WEIGHTS, FP8_TOKENS, "float-quantized")
QUARK_FP8 = {
    **QUARK,
    "global_quant_config": {
        "weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"},
        "input_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"},
    },
}


def grouped(**changes: Any) -> dict[str, Any]:
    """A compressed-tensors block whose group is changed so; a field that is ... is not there."""
    group = {**FP8["config_groups"]["group_0"], **changes}
    return {**FP8, "config_groups": {"a": {k: v for k, v in group.items() if v is not ...}}}


def without(block: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != name}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({**FP8, "ignore": None}, "gives null for 'ignore'"),
        ({**FP8, "config_groups": None}, "gives null for 'config_groups'"),
        (grouped(targets=...), "does not give 'config_groups.a.targets'"),
        (grouped(targets=None), "gives null for 'config_groups.a.targets'"),
        (grouped(weights=None), "gives null for 'config_groups.a.weights'"),
        (grouped(weights={**FP8_WEIGHTS, "bits": 8}), "unknown quantization argument 'bits'"),
        (grouped(weights={**FP8_WEIGHTS, "dynamic": "true"}), "must be true, false or 'local'"),
        (grouped(weights={**FP8_WEIGHTS, "type": " float"}), "must be int or float, not ' float'"),
        (grouped(weights={**FP8_WEIGHTS, "strategy": ""}), "strategy must be tensor or channel"),
        (grouped(weights={**FP8_WEIGHTS, "actorder": "none"}), "must be group or weight or"),
        (grouped(weights={**FP8_WEIGHTS, "scale_dtype": "fp8"}), "must be a dtype of torch"),
        (grouped(output_activations={"num_bits": "x"}), "output_activations.num_bits must be"),
        ({**FP8, "kv_cache_scheme": False}, "kv_cache_scheme must be a mapping"),
        (without(QUARK_FP8, "exclude"), "does not give 'exclude'"),
        ({**QUARK_FP8, "layer_type_quant_config": None}, "null for 'layer_type_quant_config'"),
        ({**QUARK_FP8, "export": {}}, "does not give 'export.kv_cache_group'"),
        ({**FP8_BLOCKS, "quant_method": None}, "gives null for 'quant_method'"),
        ({**AUTO_ROUND, "packing_format": ""}, "must be packed as"),
    ],
)
def test_what_a_block_must_give(block: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointRefusedError) as caught:
        one(block)
    assert said in str(caught.value)


def test_all_experts_left_out_need_no_schemes_by_class() -> None:
    block = {**without(QUARK_FP8, "layer_type_quant_config"), "exclude": ["re:.*experts"]}
    assert asked(one(block))[0] == "unquantized"


@pytest.mark.parametrize(
    "weights",
    [
        {"num_bits": "8"},
        {"num_bits": 8.0},
        {"num_bits": " 8.0"},
        {"type": "FLOAT", "strategy": "Channel"},
        {"scale_dtype": "torch.bfloat16", "zp_dtype": "int8"},
        {"symmetric": "true"},
        {"symmetric": 1},
        {"dynamic": 0},
        {"observer": "minmax", "observer_kwargs": {}, "zp_dtype": None},
    ],
)
def test_arguments_are_taken_as_pydantic_takes_them(weights: dict[str, Any]) -> None:
    expected = ("fp8", "kFp8StaticChannelSym", "kFp8DynamicTokenSym")
    assert asked(one(grouped(weights={**FP8_WEIGHTS, **weights}))) == expected


@pytest.mark.parametrize("nothing", [None, False, [], {}])
def test_activations_that_count_as_false_are_none(nothing: object) -> None:
    block = grouped(weights=NVFP4, input_activations=nothing, format="nvfp4-pack-quantized")
    assert asked(one(block)) == ("nvfp4", "kNvfp4Static", None)


def test_whole_numbers_with_a_point_are_integers() -> None:
    weights = {**INT4, "group_size": 32.0}
    expected = ("int_wna16", "kInt4Static32", None)
    assert asked(one(compressed(weights, None, "pack-quantized"))) == expected
    levels = {"dtype": "int4", "qscheme": "per_group", "symmetric": True, "ch_axis": 1.0}
    quark = {**QUARK, "global_quant_config": {"weight": {**levels, "group_size": 128.0}}}
    assert asked(one(quark)) == ("int_wna16", "kInt4Static", None)
    for half in (32.5, "32"):
        with pytest.raises(CheckpointRefusedError, match="group_size must be an integer"):
            one(compressed({**INT4, "group_size": half}, None, "pack-quantized"))


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}


@pytest.mark.parametrize(
    ("zero_point", "taken"), [("true", True), (1, True), (0, False), (None, False)]
)
def test_zero_points_of_awq_are_taken_by_their_truth(zero_point: Any, *, taken: bool) -> None:
    layer = one({**AWQ, "zero_point": zero_point})
    assert (layer.oracle, layer.options["may_have_zp"]) == ("int_wna16", taken)


@pytest.mark.parametrize("fields", [{"desc_act": None}, {"desc_act": 0}, {"sym": 1}])
def test_flags_of_gptq_may_be_numbers_or_null(fields: dict[str, Any]) -> None:
    assert one({**GPTQ, **fields}).options == one(GPTQ).options


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"desc_act": "false"}, "orders groups by activation"), ({"sym": "true"}, "be symmetric")],
)
def test_text_is_true_where_truth_is_asked_and_else_another_value(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointRefusedError, match=said):
        one({**GPTQ, **fields})


@pytest.mark.parametrize(
    ("sym", "kind", "has_zero_points"),
    [
        (1, "auto_gptq", False),
        ("true", "moe_wna16", False),
        (0, "moe_wna16", True),
        (None, "moe_wna16", True),
    ],
)
def test_symmetry_of_auto_round_is_compared_first(
    sym: Any, kind: str, *, has_zero_points: bool
) -> None:
    options = one({**AUTO_ROUND, "sym": sym}).options
    assert (options["quant_config"]["kind"], options["may_have_zp"]) == (kind, has_zero_points)


@pytest.mark.parametrize("fields", [{}, {"desc_act": True, "group_size": -1}, {"sym": None}])
def test_gptq_that_may_run_as_moe_wna16(fields: dict[str, Any]) -> None:
    asked_for = Deployment(quantization="moe_wna16")
    (layer,) = derive_layers(qwen3({**GPTQ, **fields}), H100, asked_for)
    assert layer.options["quant_config"]["kind"] == "moe_wna16"
    assert layer.options["may_have_zp"] == ("sym" in fields)


def test_rules_of_gptq_change_nothing_by_values_of_other_types() -> None:
    rule = {"bits": "8", "group_size": None, "sym": 0}
    assert one({**GPTQ, "dynamic": {"+:.*layers": rule}}).options == one(GPTQ).options


def test_an_empty_block_stands_before_what_is_declared_elsewhere() -> None:
    file = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
    (quantized,) = derive_layers(qwen3(), H100, hf_quant_config=file)
    (unquantized,) = derive_layers(qwen3({}), H100, hf_quant_config=file)
    assert (quantized.oracle, unquantized.oracle) == ("fp8", "unquantized")


def test_compression_is_read_at_the_top_level_only() -> None:
    vision = {"architectures": ["Qwen3VLMoeForConditionalGeneration"], "model_type": "my_vl"}
    deepstack = {"vision_config": {"deepstack_visual_indexes": []}}
    config = {**vision, **deepstack, "text_config": qwen3()}
    (layer,) = derive_layers({**config, "compression_config": FP8}, H100)
    assert layer.oracle == "fp8"
    below = {**config, "text_config": {**qwen3(), "compression_config": FP8}}
    with pytest.raises(
        CheckpointRefusedError, match=r"text_config\.compression_config is not where"
    ):
        derive_layers(below, H100)


def test_the_first_name_of_quantized_blocks_counts_even_if_it_is_null() -> None:
    elsewhere = {**AUTO_ROUND, "to_quant_block_names": "model.visual"}
    assert asked(one(elsewhere))[0] == "unquantized"
    assert asked(one({**elsewhere, "block_name_to_quantize": None}))[0] == "int_wna16"


@pytest.mark.parametrize(
    ("architecture", "fields", "target", "quantized"),
    [
        ("Qwen3MoeForCausalLM", {}, "Linear", True),
        ("Qwen3MoeForCausalLM", {}, "routedexperts", True),
        ("FlexOlmoForCausalLM", {}, "TransformersRoutedExperts", True),
        ("FlexOlmoForCausalLM", {}, "Linear", True),
        ("Qwen3MoeForCausalLM", {}, "TransformersRoutedExperts", False),
        ("DbrxForCausalLM", {"hidden_size": 256}, "Linear", False),
        ("DbrxForCausalLM", {"hidden_size": 256}, "DbrxExperts", True),
    ],
)
def test_targets_name_the_class_of_the_models_experts(
    architecture: str, fields: dict[str, Any], target: str, quantized: bool
) -> None:
    dbrx = {"ffn_config": {"moe_num_experts": 8, "moe_top_k": 2, "ffn_hidden_size": 512}}
    config = {**qwen3(grouped(targets=[target])), **dbrx, **fields}
    (layer,) = derive_layers({**config, "architectures": [architecture]}, H100)
    assert layer.oracle == ("fp8" if quantized else "unquantized")


@pytest.mark.parametrize(
    ("architecture", "name", "layer"),
    [
        ("FlexOlmoForCausalLM", "layers.1.mlp.experts", 1),
        ("FlexOlmoForCausalLM", "model.model.layers.2.mlp.experts", 2),
        ("PhimoeForCausalLM", "model.layers.1.block_sparse_moe.experts", 1),
        ("Inkling2ForCausalLM", "model.llm.layers.1.mlp.experts", 1),
        ("Kimi_K25ForConditionalGeneration", "language_model.model.layers.1.mlp.experts", 1),
        ("Qwen3OmniMoeThinkerForConditionalGeneration", "thinker.model.layers.1.mlp.experts", 1),
    ],
)
def test_names_in_models_of_the_transformers_backend(
    architecture: str, name: str, layer: int
) -> None:
    config = {
        **qwen3({**FP8_BLOCKS, "ignored_layers": [name]}),
        "architectures": [architecture],
        "n_routed_experts": 128,
        "num_local_experts": 128,
        "intermediate_size": 768,
        "first_k_dense_replace": 0,
    }
    found = derive_layers(config, H100)
    assert [one.layers for one in found if one.oracle == "unquantized"] == [(layer,)]


@pytest.mark.parametrize(
    ("architecture", "path", "renamed"),
    [
        ("GptOssForCausalLM", "mlp", True),
        ("Llama4ForCausalLM", "feed_forward", False),  # what is stacked when loaded keeps its name
    ],
)
def test_projections_that_a_model_renames_are_no_longer_those_of_its_experts(
    architecture: str, path: str, *, renamed: bool
) -> None:
    projections = [f"model.layers.1.{path}.experts.0.{x}_proj" for x in ("gate", "up", "down")]
    config = {
        **qwen3(compressed(NVFP4, None, "nvfp4-pack-quantized", ignore=projections)),
        "architectures": [architecture],
        "num_local_experts": 128,
        "intermediate_size": 768,
        "interleave_moe_layer_step": 1,
    }
    if renamed:
        with pytest.raises(CheckpointRefusedError, match="different ways"):
            derive_layers(config, H100)
    else:
        found = derive_layers(config, H100)
        assert [one.layers for one in found if one.oracle == "unquantized"] == [(1,)]


def test_the_transformers_backend_takes_no_mxfp4() -> None:
    mxfp4 = {"quant_method": "mxfp4"}
    assert asked(one(mxfp4))[0] == "mxfp4_deepseek_v4"
    with pytest.raises(CheckpointRefusedError, match="Transformers modelling backend"):
        derive_layers({**qwen3(mxfp4), "architectures": ["FlexOlmoForCausalLM"]}, H100)
