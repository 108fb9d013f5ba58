"""What vLLM does not take of a checkpoint's quantization is refused, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import (
    CheckpointRefusedError,
    Deployment,
    derive_layers,
)
from moe_rules.models.compressed_tensors import quantization_arguments
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tests.models.checkpoints import (
    AUTO_ROUND,
    CPU,
    FP8_BLOCKS,
    FP8_TOKENS,
    FP8_WEIGHTS,
    GPTQ,
    H100,
    INT4,
    XPU,
    asked,
    compressed,
    one,
    qwen3,
)


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
        (
            {"quant_method": "awq", "bits": 4, "w_bit": None, "group_size": 8, "zero_point": True},
            H100,
            "gives null for 'w_bit'",
        ),
        (
            {"quant_method": "moe_wna16", "bits": 4, "group_size": 128, "sym": True},
            H100,
            "takes checkpoints of GPTQ and AWQ",
        ),
        ({"quant_method": "bitsandbytes"}, H100, "has no quantization method 'bitsandbytes'"),
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
    with pytest.raises(CheckpointRefusedError, match="has no quantization method 'bitsandbytes'"):
        one(None, quantization="bitsandbytes")
    with pytest.raises(CheckpointRefusedError, match="did you mean 'experts_int8'"):
        one(None, quantization="expert_int8")


def test_a_method_of_a_plugin_is_refused_until_its_facts_are_stated() -> None:
    config = qwen3({"quant_method": "gptqq", "bits": 4})
    said = "did you mean 'gptq'.*stating oracle, weight_key, activation_key"
    with pytest.raises(CheckpointRefusedError, match=said):
        derive_layers(config, H100)
    (layer,) = derive_layers(
        config, H100, overrides={"oracle": "int_wna16", "weight_key": "kInt4Static"}
    )
    assert asked(layer) == ("int_wna16", "kInt4Static", None)
    assert layer.weight_key is NAMED_KEYS["kInt4Static"]


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
    deployed = Deployment(tensor_parallel_size=2, moe_backend="marlin", **deployment)
    with pytest.raises(CheckpointRefusedError, match="whole FP8 blocks"):
        derive_layers(qwen3(FP8_BLOCKS, **fields), H100, deployed)
