from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import (
    CheckpointRefusedError,
    Deployment,
    ModelLayer,
    UnknownModelError,
    derive_layers,
)
from moe_rules.models.compressed_tensors import quantization_arguments
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey, Scale
from tests.models.checkpoints import (
    A100,
    CPU,
    FP8_BLOCKS,
    FP8_TOKENS,
    FP8_WEIGHTS,
    GPTQ,
    H100,
    XPU,
    compressed,
    qwen3,
)

INT4 = {"num_bits": 4, "type": "int", "group_size": 128}
AUTO_ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 128}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}


def one(
    block: dict[str, Any] | None, machine: dict[str, Any] = H100, **deployment: Any
) -> ModelLayer:
    (layer,) = derive_layers(qwen3(block), machine, Deployment(**deployment))
    return layer


def asked(layer: ModelLayer) -> tuple[str | None, str | None, str | None]:
    """The oracle and the names of its keys."""
    keys = (layer.weight_key, layer.activation_key)
    weight, activation = (None if key is None else key.name for key in keys)
    return layer.oracle, weight, activation


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (None, ("unquantized", None, None)),
        (FP8_BLOCKS, ("fp8", "kFp8Static128BlockSym", "kFp8Dynamic128Sym")),
        (
            {"quant_method": "fp8", "activation_scheme": "static"},
            ("fp8", "kFp8StaticTensorSym", "kFp8StaticTensorSym"),
        ),
        (
            {"quant_method": "fp8", "activation_scheme": "dynamic"},
            ("fp8", "kFp8StaticTensorSym", "kFp8DynamicTensorSym"),
        ),
        (GPTQ, ("int_wna16", "kInt4Static", None)),
        ({**GPTQ, "bits": 8}, ("int_wna16", "kInt8Static", None)),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
            ("int_wna16", "kInt4Static", None),
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8"},
            ("fp8", "kFp8StaticTensorSym", "kFp8StaticTensorSym"),
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4"},
            ("nvfp4", "kNvfp4Static", "kNvfp4Dynamic"),
        ),
        (
            {"quant_method": "modelopt_mixed", "quant_algo": "nvfp4"},
            ("nvfp4", "kNvfp4Static", "kNvfp4Dynamic"),
        ),
        ({**AUTO_ROUND, "data_type": "mx_fp4", "group_size": 64}, (None, None, None)),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "NVFP4",
                "config_groups": {"group_0": {"weights": {}, "input_activations": None}},
            },
            ("nvfp4", "kNvfp4Static", None),
        ),
        (
            compressed(FP8_WEIGHTS, FP8_TOKENS, "float-quantized"),
            ("fp8", "kFp8StaticChannelSym", "kFp8DynamicTokenSym"),
        ),
        (compressed(INT4, None, "pack-quantized"), ("int_wna16", "kInt4Static", None)),
        (
            compressed({**INT4, "group_size": 32, "symmetric": False}, None, "pack-quantized"),
            ("int_wna16", "kInt4Static32Asym", None),
        ),
        (
            compressed(NVFP4, NVFP4, "nvfp4-pack-quantized"),
            ("nvfp4", "kNvfp4Static", "kNvfp4Dynamic"),
        ),
        (compressed(NVFP4, None, "nvfp4-pack-quantized"), ("nvfp4", "kNvfp4Static", None)),
        (
            {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True},
            ("int_wna16", "kInt4Static", None),
        ),
    ],
)
def test_a_checkpoint_asks_an_oracle(
    block: dict[str, Any] | None, expected: tuple[str | None, str | None, str | None]
) -> None:
    assert asked(one(block)) == expected


def test_options_of_an_integer_checkpoint() -> None:
    assert one(GPTQ).options == {
        "may_have_zp": False,
        "may_have_bias": True,
        "allow_tile_padding": True,
        "quant_config": {
            "kind": "auto_gptq",
            "num_bits": 4,
            "group_size": 128,
            "symmetric": True,
            "desc_act": False,
        },
    }


def test_a_width_without_a_named_key_is_computed() -> None:
    layer = one(compressed({**INT4, "num_bits": 3}, None, "pack-quantized"))
    assert layer.weight_key == QuantKey("uint3b4", Scale("fp16", True, (1, 128)))


def test_the_scale_block_is_refined_to_the_shard() -> None:
    layer = one(FP8_BLOCKS, tensor_parallel_size=4)
    assert layer.weight_key == QuantKey("fp8_e4m3", Scale("fp32", True, (64, 64)))


def test_a_shard_that_marlin_does_not_take_falls_back() -> None:
    layer = one(GPTQ, tensor_parallel_size=4)  # 192 is no multiple of 128
    assert layer.options["quant_config"]["kind"] == "moe_wna16"
    assert one(GPTQ, tensor_parallel_size=2).options["quant_config"]["kind"] == "auto_gptq"


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("fp8", ("fp8", "kFp8StaticTensorSym", "kFp8DynamicTensorSym")),
        ("fp8_per_block", ("fp8", "kFp8Static128BlockSym", "kFp8Dynamic128Sym")),
        ("fp8_per_channel", ("fp8", "kFp8StaticChannelSym", "kFp8DynamicTokenSym")),
        ("mxfp8", ("mxfp8", None, None)),
        ("experts_int8", ("int8", "kInt8StaticChannelSym", "kInt8DynamicTokenSym")),
    ],
)
def test_an_unquantized_checkpoint_can_be_quantized_while_loading(
    requested: str, expected: tuple[str | None, str | None, str | None]
) -> None:
    assert asked(one(None, quantization=requested)) == expected


def layers_of(layers: list[ModelLayer]) -> dict[str | None, tuple[int, ...]]:
    return {layer.oracle: layer.layers for layer in layers}


@pytest.mark.parametrize(
    "block",
    [
        {**FP8_BLOCKS, "ignored_layers": ["model.layers.1.mlp.experts"]},
        {**FP8_BLOCKS, "modules_to_not_convert": ["model.layers.1.mlp.experts.7.up_proj"]},
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["model.layers.1.*"]},
        {
            "producer": {"name": "modelopt"},
            "quantization": {"quant_algo": "FP8", "exclude_modules": ["model.layers.1*"]},
        },
        compressed(
            FP8_WEIGHTS, FP8_TOKENS, "float-quantized", ignore=[r"re:model\.layers\.1\.mlp.*"]
        ),
    ],
)
def test_layers_left_out_are_unquantized(block: dict[str, Any]) -> None:
    found = layers_of(derive_layers(qwen3(block), H100))
    assert found == {"fp8": (0, 2, 3), "unquantized": (1,)}


def test_a_tree_of_modules_is_found_inside_a_nested_model() -> None:
    config = {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "text_config": {"num_hidden_layers": 2},
        "quantization_config": {
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "ignore": ["model.layers.0*"],
        },
    }
    first, second = derive_layers(config, H100)
    assert (first.oracle, first.layers) == ("unquantized", (0,))
    assert (second.oracle, second.layers) == ("nvfp4", (1,))


def test_the_block_may_lie_in_a_file_of_its_own() -> None:
    block = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (layer,) = derive_layers(qwen3(), H100, hf_quant_config=block)
    assert layer.oracle == "nvfp4"


def test_gptq_rules_change_or_leave_out_layers() -> None:
    rules = {r"-:model\.layers\.0\.": {}, r"+:model\.layers\.1\.": {"bits": 8}}
    keys = {
        index: asked(layer)[:2]
        for layer in derive_layers(qwen3({**GPTQ, "dynamic": rules}), H100)
        for index in layer.layers
    }
    assert keys[0] == ("unquantized", None)
    assert keys[1] == ("int_wna16", "kInt8Static")
    assert keys[2] == keys[3] == ("int_wna16", "kInt4Static")


def test_a_mixed_checkpoint_names_an_algorithm_for_each_layer() -> None:
    block = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {
            "model.layers.0.mlp.experts.0.up_proj": {"quant_algo": "NVFP4", "group_size": 16},
            "model.layers.1.mlp.experts": {"quant_algo": "FP8"},
            "model.layers.2.mlp.gate_proj": {"quant_algo": "FP8_PB_WO"},
            "model.layers.3.mlp": {"quant_algo": "FP8"},
        },
    }
    found = {
        index: asked(layer) for layer in derive_layers(qwen3(block), H100) for index in layer.layers
    }
    assert found[0] == ("nvfp4", "kNvfp4Static", "kNvfp4Dynamic")
    assert found[1] == ("fp8", "kFp8StaticTensorSym", "kFp8StaticTensorSym")
    assert found[2] == ("fp8", "kFp8Static128BlockSym", "kFp8Dynamic128Sym")
    assert found[3] == ("unquantized", None, None)


def test_targets_of_compressed_tensors() -> None:
    block = compressed(FP8_WEIGHTS, FP8_TOKENS, "float-quantized")
    experts = {
        "targets": [r"re:.*\.[01]\.mlp\.experts\..*"],
        "weights": INT4,
        "format": "pack-quantized",
    }
    block["config_groups"] = {"experts": experts, **block["config_groups"]}
    assert layers_of(derive_layers(qwen3(block), H100)) == {"int_wna16": (0, 1), "fp8": (2, 3)}


def test_projections_must_be_quantized_alike() -> None:
    block = compressed(FP8_WEIGHTS, FP8_TOKENS, "float-quantized", ignore=["re:.*down_proj"])
    with pytest.raises(CheckpointRefusedError, match="different ways") as caught:
        one(block)
    assert caught.value.stage == "quant_method"
    assert caught.value.layer is not None
    assert caught.value.layer.num_experts == 128


@pytest.mark.parametrize(
    ("given", "strategy"),
    [
        ({}, "tensor"),
        ({"group_size": 64}, "group"),
        ({"group_size": -1}, "channel"),
        ({"strategy": "TOKEN", "dynamic": True}, "token"),
    ],
)
def test_the_strategy_follows_from_the_group_size(given: dict[str, Any], strategy: str) -> None:
    arguments = quantization_arguments(given)
    assert arguments["strategy"] == strategy
    assert (arguments["num_bits"], arguments["type"], arguments["symmetric"]) == (8, "int", True)


@pytest.mark.parametrize(
    "given",
    [
        {"strategy": "token"},
        {"strategy": "group"},
        {"strategy": "tensor", "group_size": 32},
        {"strategy": "channel", "dynamic": True},
    ],
)
def test_arguments_that_contradict_each_other_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(CheckpointRefusedError):
        quantization_arguments(given)


@pytest.mark.parametrize(
    ("block", "machine", "said"),
    [
        ({**GPTQ, "sym": False}, H100, "must be symmetric"),
        ({**GPTQ, "desc_act": True}, H100, "desc_act"),
        ({**GPTQ, "bits": 3}, H100, "4 or 8 bits"),
        ({"quant_method": "gptq", "bits": 4}, H100, "does not give 'group_size'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 8}, H100, "does not give 'sym'"),
        ({"quant_method": "awq", "group_size": 8}, H100, "does not give 'w_bit' or 'bits'"),
        ({**FP8_BLOCKS, "activation_scheme": "static"}, H100, "dynamic activations only"),
        (
            {**FP8_BLOCKS, "weight_block_size": [128]},
            H100,
            "weight_block_size must be a list of 2, not [128]",
        ),
        ({**FP8_BLOCKS, "ignored_layers": "lm_head"}, H100, "must be a list"),
        (FP8_BLOCKS, {"device": "cuda", "compute_capability": (7, 0)}, "compute capability 7.5"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, XPU, "not supported on xpu"),
        ({"quant_method": "modelopt", "quant_algo": "INT3"}, H100, "'INT3' is not supported"),
        ({"quant_method": "fbgemm_fp8"}, H100, "deprecated"),
        ({"quant_method": "bitsandbytes"}, H100, "does not support bitsandbytes"),
        ({"quant_method": "quark"}, H100, "'export'"),
        ({**AUTO_ROUND, "data_type": "nv_fp"}, CPU, "data type 'nv_fp'"),
        ({**AUTO_ROUND, "packing_format": "auto_round:llm_compressor"}, CPU, "must be packed as"),
        ({**AUTO_ROUND, "bits": 9}, H100, "9 bits"),
        ({**AUTO_ROUND, "backend": "exllama"}, H100, "backend 'exllama'"),
        ({**AUTO_ROUND, "data_type": "mx_fp"}, H100, "groups of 32"),
        ({**GPTQ, "quant_method": "gptq_marlin", "group_size": 96}, H100, "run as moe_wna16"),
        ({"quant_method": "modelopt_fp4", "quant_algo": "FP8_PB_WO"}, H100, "no MoE scheme"),
        ({"quant_method": "modelopt_mxfp8", "quant_algo": "FP8_PB_WO"}, H100, "no MoE scheme"),
        (compressed({**INT4, "dynamic": "local"}, None, "pack-quantized"), H100, "'local'"),
        (
            compressed({**FP8_WEIGHTS, "actorder": "group"}, FP8_TOKENS, "float-quantized"),
            H100,
            "does not go with strategy 'channel'",
        ),
        (
            compressed(FP8_WEIGHTS, {**FP8_TOKENS, "num_bits": 6}, "float-quantized"),
            H100,
            "6 bits; expected 4 or 8",
        ),
        (
            {**AUTO_ROUND, "data_type": "mx_fp", "bits": 8, "group_size": 32, "act_bits": 16},
            H100,
            "needs act_bits 8",
        ),
        (
            compressed({**INT4, "actorder": "group"}, None, "pack-quantized"),
            H100,
            "no longer supported",
        ),
        (compressed(INT4, None, "int-quantized"), H100, "without input_activations"),
        (
            {"quant_method": "compressed-tensors", "config_groups": [1]},
            H100,
            "config.json: quantization_config.config_groups must be a mapping, not [1]",
        ),
        (
            compressed(FP8_WEIGHTS, FP8_TOKENS, "float-quantized", ignore=["re:("]),
            H100,
            "quantization_config.ignore.0 must be a regular expression (missing )",
        ),
    ],
)
def test_what_vllm_does_not_take_is_refused(
    block: dict[str, Any], machine: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointRefusedError) as caught:
        one(block, machine)
    assert said in str(caught.value)


def test_a_request_must_fit_the_checkpoint() -> None:
    with pytest.raises(CheckpointRefusedError, match="is not the requested one"):
        one(FP8_BLOCKS, quantization="experts_int8")
    with pytest.raises(CheckpointRefusedError, match="needs a checkpoint quantized so"):
        one(None, quantization="quark")
    with pytest.raises(CheckpointRefusedError, match="does not support bitsandbytes"):
        one(None, quantization="bitsandbytes")
    with pytest.raises(UnknownModelError, match="did you mean 'experts_int8'"):
        one(None, quantization="expert_int8")


def test_an_unknown_method_says_which_facts_it_leaves_open() -> None:
    config = qwen3({"quant_method": "gptqq", "bits": 4})
    with pytest.raises(UnknownModelError, match="did you mean 'gptq'") as caught:
        derive_layers(config, H100)
    assert caught.value.missing == ("oracle", "weight_key", "activation_key")
    (layer,) = derive_layers(
        config, H100, overrides={"oracle": "int_wna16", "weight_key": "kInt4Static"}
    )
    assert asked(layer) == ("int_wna16", "kInt4Static", None)
    assert layer.weight_key is NAMED_KEYS["kInt4Static"]


def test_layers_that_ask_no_oracle_say_why() -> None:
    mxfp4 = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}
    layer = one(compressed(mxfp4, None, "mxfp4-pack-quantized"))
    assert layer.oracle is None
    assert "takes CutlassExpertsMxfp4" in layer.notes[0]


def test_the_machine_decides_too() -> None:
    awq = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}
    assert one(awq, A100).oracle == "int_wna16"
    assert one(awq, CPU).oracle == "unquantized"


@pytest.mark.parametrize(
    ("backend", "tp_size", "block", "padded"),
    [
        ("auto", 2, (64, 64), 320),
        ("triton", 4, (32, 32), 160),  # the one backend that takes smaller blocks
        ("marlin", 2, (128, 128), 384),
        ("deep_gemm", 4, (128, 128), 256),
        ("triton", 8, (128, 128), 128),  # no smaller block divides 80
        ("auto", 8, (128, 128), 80),
        ("marlin", 1, (128, 128), 640),
    ],
)
def test_a_backend_asked_for_by_name_gets_a_shard_of_whole_blocks(
    backend: str, tp_size: int, block: tuple[int, int], padded: int
) -> None:
    deployment = Deployment(tensor_parallel_size=tp_size, moe_backend=backend)
    config = qwen3(FP8_BLOCKS, moe_intermediate_size=640)
    (layer,) = derive_layers(config, H100, deployment)
    assert layer.weight_key is not None
    assert layer.weight_key.scale.group_shape == block
    assert layer.moe.intermediate_size_per_partition == padded
    assert layer.moe.intermediate_size_per_partition_unpadded == 640 // tp_size


@pytest.mark.parametrize(
    ("fields", "deployment"),
    [
        ({"moe_intermediate_size": 704}, {}),
        ({"moe_intermediate_size": 640, "hidden_size": 2112}, {}),
        ({"moe_intermediate_size": 640}, {"enable_lora": True}),
    ],
)
def test_shards_that_cannot_be_padded_are_refused(
    fields: dict[str, Any], deployment: dict[str, Any]
) -> None:
    asked = Deployment(tensor_parallel_size=2, moe_backend="marlin", **deployment)
    with pytest.raises(CheckpointRefusedError, match="whole FP8 blocks"):
        derive_layers(qwen3(FP8_BLOCKS, **fields), H100, asked)
