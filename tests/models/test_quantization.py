"""What is asked for the layers of a quantized checkpoint: an oracle, keys and options."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import (
    CheckpointRefusedError,
    Deployment,
    ModelLayer,
    derive_layers,
)
from moe_rules.models.compressed_tensors import quantization_arguments
from moe_rules.vocabulary.quant_keys import QuantKey, Scale
from tests.models.checkpoints import (
    A100,
    AUTO_ROUND,
    CPU,
    FP8_BLOCKS,
    FP8_TOKENS,
    FP8_WEIGHTS,
    GPTQ,
    H100,
    INT4,
    NVFP4,
    asked,
    compressed,
    one,
    qwen3,
)


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
        ({"strategy": "token", "dynamic": True}, "token"),
    ],
)
def test_the_strategy_follows_from_the_group_size(given: dict[str, Any], strategy: str) -> None:
    arguments = quantization_arguments(given)
    assert arguments["strategy"] == strategy
    assert (arguments["num_bits"], arguments["type"], arguments["symmetric"]) == (8, "int", True)


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


@pytest.mark.parametrize(("old", "usual"), [("w_bit", "bits"), ("q_group_size", "group_size")])
def test_awq_outside_marlins_shapes_is_read_by_the_usual_names(old: str, usual: str) -> None:
    block = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    renamed = {**block, old: block[usual]}
    del renamed[usual]
    rocm = {"device": "rocm", "gfx": "gfx942"}
    assert asked(one(renamed)) == asked(one(block))
    assert asked(one({**renamed, **block}, rocm)) == asked(one(block, rocm))
    with pytest.raises(CheckpointRefusedError, match=f"reads {usual} and not {old}"):
        one(renamed, rocm)
