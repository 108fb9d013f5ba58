from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from moe_rules.models import (
    CheckpointRefusedError,
    Deployment,
    UnknownModelError,
    derive_layers,
)
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tests.models.checkpoints import CPU, FP8_BLOCKS, H100, XPU, qwen3


def test_facts_of_an_ordinary_model() -> None:
    (layer,) = derive_layers(qwen3(), H100)
    assert layer.oracle == "unquantized"
    assert layer.layers == (0, 1, 2, 3)
    assert layer.module == "model.layers.0.mlp.experts"
    moe = layer.moe
    assert (moe.num_experts, moe.experts_per_token) == (128, 8)
    assert (moe.hidden_dim, moe.intermediate_size) == (2048, 768)
    assert (moe.activation, moe.routing_method, moe.in_dtype) == (
        "silu",
        "RenormalizeNaive",
        "bf16",
    )
    assert layer.runtime == {"model_type": "qwen3_moe"}


def test_layers_of_the_deployment() -> None:
    deployment = Deployment(
        tensor_parallel_size=2,
        data_parallel_size=2,
        enable_expert_parallel=True,
        enable_eplb=True,
        num_redundant_experts=32,
        moe_backend="triton",
        enable_lora=True,
    )
    (layer,) = derive_layers(qwen3(), H100, deployment)
    parallel = layer.moe.moe_parallel_config
    assert parallel.use_ep
    assert (parallel.ep_size, parallel.tp_size) == (4, 1)
    assert parallel.enable_eplb
    assert layer.moe.num_experts == 160
    assert layer.moe.num_local_experts == 40
    assert layer.moe.moe_backend == "triton"
    assert layer.moe.is_lora_enabled


def test_tensor_parallelism_cuts_the_intermediate_size() -> None:
    (layer,) = derive_layers(qwen3(), H100, Deployment(tensor_parallel_size=4))
    assert layer.moe.intermediate_size_per_partition == 192


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({"mlp_only_layers": [0, 2]}, (1, 3)),
        ({"decoder_sparse_step": 2}, (1, 3)),
    ],
)
def test_only_moe_layers_count(fields: dict[str, Any], layers: tuple[int, ...]) -> None:
    found = derive_layers(qwen3(**fields), H100)
    assert tuple(index for layer in found for index in layer.layers) == layers


@pytest.mark.parametrize(
    "fields",
    [
        {"hybrid_override_pattern": "ME*EM", "num_hidden_layers": 5},
        {"layers_block_type": ["mamba", "moe", "attention", "moe", "mamba"]},
    ],
)
def test_layer_types_may_be_a_text_or_a_list(fields: dict[str, Any]) -> None:
    config = {"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", **fields}
    (layer,) = derive_layers(config, H100)
    assert layer.layers == (1, 3)


def test_a_router_that_vllm_cannot_trace_is_custom_except_on_a_cpu() -> None:
    config = {"architectures": ["Kolibri1ForCausalLM"], "model_type": "kolibri1"}
    (layer,) = derive_layers(config, H100)
    assert (layer.moe.routing_method, layer.moe.router_logits_dtype) == ("Custom", "bf16")
    (layer,) = derive_layers(config, CPU)
    assert layer.moe.routing_method == "Default"


def test_defaults_of_the_configuration_class_are_known() -> None:
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    (layer,) = derive_layers(config, H100)
    assert (layer.moe.num_experts, layer.moe.experts_per_token) == (8, 2)
    assert (layer.moe.hidden_dim, layer.moe.intermediate_size) == (4096, 14336)


def test_names_of_the_configuration_class_are_known() -> None:
    config = {
        "architectures": ["DbrxForCausalLM"],
        "model_type": "dbrx",
        "d_model": 6144,
        "n_layers": 40,
        "n_heads": 48,
        "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4, "ffn_hidden_size": 10752},
    }
    (layer,) = derive_layers(config, H100)
    assert layer.module == "transformer.blocks.0.ffn"
    assert len(layer.layers) == 40
    assert layer.moe.hidden_dim == 6144
    with pytest.raises(CheckpointRefusedError, match="finds no number of experts"):
        derive_layers(config, H100, Deployment(enable_expert_parallel=True))


def test_layers_that_differ_are_told_apart() -> None:
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "num_hidden_layers": 6,
        "first_k_dense_replace": 1,
        "quantization_config": {
            **FP8_BLOCKS,
            "modules_to_not_convert": ["model.layers.3.mlp.experts"],
        },
    }
    quantized, plain = derive_layers(config, H100)
    assert (quantized.oracle, quantized.layers) == ("fp8", (1, 2, 4, 5))
    assert (plain.oracle, plain.layers) == ("unquantized", (3,))
    assert quantized.moe == plain.moe
    assert plain.module == "model.layers.3.mlp.experts"


@pytest.mark.parametrize(
    ("declared", "machine", "requested", "expected"),
    [
        ("bfloat16", H100, "auto", "bf16"),
        ("float16", H100, "auto", "fp16"),
        ("float32", H100, "auto", "bf16"),
        (None, H100, "auto", "bf16"),
        ("bfloat16", {"device": "cuda", "compute_capability": (7, 5)}, "auto", "fp16"),
        ("bfloat16", H100, "half", "fp16"),
    ],
)
def test_activation_dtype(
    declared: str | None, machine: dict[str, Any], requested: str, expected: str
) -> None:
    config = qwen3(dtype=declared)
    (layer,) = derive_layers(config, machine, Deployment(dtype=requested))
    assert layer.moe.in_dtype == expected


def test_unknown_architecture_names_the_nearest_and_what_is_missing() -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'Qwen3MoeForCausalLM'") as caught:
        derive_layers(qwen3(architectures=["Qwen3MoeForCausal"]), H100)
    assert caught.value.missing == (
        "num_experts",
        "experts_per_token",
        "hidden_dim",
        "intermediate_size",
    )
    for name in caught.value.missing:
        assert name in str(caught.value)


def test_enough_overrides_derive_an_unknown_architecture() -> None:
    overrides = {
        "num_experts": 16,
        "experts_per_token": 2,
        "hidden_dim": 1024,
        "intermediate_size": 512,
        "activation": "gelu",
        "parallel.tp_size": 2,
        "oracle": "fp8",
        "weight_key": "kFp8StaticTensorSym",
        "activation_key": NAMED_KEYS["kFp8DynamicTensorSym"].to_dict(),
        "allow_vllm_cutlass": True,
    }
    config = {"architectures": ["NobodyKnows"], "num_hidden_layers": 3}
    (layer,) = derive_layers(config, H100, overrides=overrides)
    assert (layer.moe.num_experts, layer.moe.intermediate_size_per_partition) == (16, 256)
    assert layer.moe.activation == "gelu"
    assert layer.layers == (0, 1, 2)
    assert layer.oracle == "fp8"
    assert layer.weight_key == NAMED_KEYS["kFp8StaticTensorSym"]
    assert layer.activation_key == NAMED_KEYS["kFp8DynamicTensorSym"]
    assert layer.options == {"allow_vllm_cutlass": True}


def test_overrides_replace_derived_facts() -> None:
    overrides = {"in_dtype": "fp16", "parallel.ep_size": 4, "intermediate_size": 1024}
    (layer,) = derive_layers(qwen3(), H100, overrides=overrides)
    assert layer.moe.in_dtype == "fp16"
    assert layer.moe.moe_parallel_config.ep_size == 4
    assert layer.moe.intermediate_size_per_partition == 1024


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"num_expert": 8}, "unknown fact 'num_expert'; did you mean 'num_experts'?"),
        ({"parallel.tp": 8}, "did you mean 'parallel.tp_size'?"),
        ({"weight_key": "kFp8StaticTensor"}, "did you mean 'kFp8StaticTensorSym'?"),
    ],
)
def test_an_override_that_is_no_fact_is_an_error(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="unknown") as caught:
        derive_layers(qwen3(), H100, overrides=overrides)
    assert said in str(caught.value)


def test_a_field_that_the_file_lacks_is_named() -> None:
    config = qwen3(architectures=["PhiMoEForCausalLM"], model_type="nothing")
    del config["num_experts"]
    with pytest.raises(UnknownModelError) as caught:
        derive_layers(config, H100)
    assert "num_experts" in caught.value.missing


@pytest.mark.parametrize(
    ("config", "machine", "deployment", "said"),
    [
        (qwen3(num_attention_heads=6), H100, {"tensor_parallel_size": 4}, "6 attention heads"),
        (qwen3(moe_intermediate_size=30), H100, {"tensor_parallel_size": 4}, "not divisible by"),
        (qwen3(num_experts=2), H100, {"tensor_parallel_size": 4}, "number of experts 2"),
        (
            qwen3(hidden_size="2k"),
            H100,
            {},
            "config.json: hidden_size must be an integer, not '2k'",
        ),
        (qwen3(mlp_only_layers=["a"]), H100, {}, "mlp_only_layers.0 must be an integer, not 'a'"),
        (qwen3(mlp_only_layers="1,a"), H100, {}, "mlp_only_layers must be a list of layer indices"),
        (qwen3(dtype="bf17"), H100, {}, "bf17"),
        (
            qwen3(num_hidden_layers="many"),
            H100,
            {},
            "num_hidden_layers must be an integer, not 'many'",
        ),
        (qwen3(num_hidden_layers=10**9), H100, {}, "1000000000 decoder layers; expected at most"),
        ([qwen3()], H100, {}, "config.json must be a mapping, not list"),
    ],
)
def test_what_vllm_would_not_run_is_refused_with_a_reason(
    config: Any, machine: dict[str, Any], deployment: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointRefusedError) as caught:
        derive_layers(config, machine, Deployment(**deployment))
    assert said in str(caught.value)


def test_there_may_be_as_many_ranks_as_experts() -> None:
    (layer,) = derive_layers(qwen3(num_experts=4), H100, Deployment(tensor_parallel_size=4))
    assert layer.moe.moe_parallel_config.tp_size == 4


def test_a_vocabulary_is_padded_before_ranks_share_it() -> None:
    config = qwen3(vocab_size=1001, num_attention_heads=24)
    assert derive_layers(config, H100, Deployment(tensor_parallel_size=8))
    with pytest.raises(CheckpointRefusedError, match="a vocabulary of 1001, padded to a multiple"):
        derive_layers(config, H100, Deployment(tensor_parallel_size=3))


def test_layers_without_a_gate_run_on_some_devices_only() -> None:
    config = {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "hidden_size": 2688,
        "num_attention_heads": 32,
        "hybrid_override_pattern": "MEM*E",
        "num_hidden_layers": 5,
        "n_routed_experts": 128,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 1856,
        "mlp_hidden_act": "relu2",
    }
    (layer,) = derive_layers(config, XPU)
    with pytest.raises(CheckpointRefusedError, match="unknown MoE activation 'tanhh_no_mul'"):
        derive_layers({**config, "mlp_hidden_act": "tanhh"}, XPU)
    assert layer.moe.activation == "relu2_no_mul"
    assert layer.layers == (1, 4)
    with pytest.raises(CheckpointRefusedError, match="has no gate"):
        derive_layers(config, CPU)


def test_an_architecture_that_vllm_dropped_is_refused() -> None:
    with pytest.raises(CheckpointRefusedError, match="was supported in vLLM until"):
        derive_layers({"architectures": ["Grok1ForCausalLM"]}, H100)


def test_an_unknown_deployment_argument_is_an_error() -> None:
    with pytest.raises(ValueError, match="did you mean 'tensor_parallel_size'"):
        Deployment.from_dict({"tensor_parallel": 2})
    given = {"name": "two ranks", "tensor_parallel_size": 2}
    assert Deployment.from_dict(given).tensor_parallel_size == 2


def test_deriving_imports_no_kernels() -> None:
    code = (
        "import sys, json; from moe_rules.models import derive_layers;"
        f"derive_layers({qwen3()!r}, {H100!r});"
        "print([name for name in ('torch', 'triton', 'vllm', 'transformers') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
