"""Model classes of vLLM that change a checkpoint's quantization for their experts."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, Deployment, derive_layers
from tests.models.checkpoints import CPU, FP8_BLOCKS, H100, XPU

B200 = {"device": "cuda", "compute_capability": (10, 0)}
ROCM = {"device": "rocm", "gfx": "gfx950"}


def asked(
    config: dict[str, Any], machine: dict[str, Any] = B200, **deployment: Any
) -> dict[int, str | None]:
    """The oracle of each MoE layer."""
    layers = derive_layers(config, machine, Deployment(**deployment))
    return {index: layer.oracle for layer in layers for index in layer.layers}


def ling(block: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A Ling 3.0 of four MoE layers."""
    return {
        "architectures": ["BailingMoeV3ForCausalLM"],
        "model_type": "bailing_hybrid",
        "num_hidden_layers": 6,
        "quantization_config": block,
        **fields,
    }


def test_ling_names_the_ends_of_module_paths() -> None:
    names = ["layers.3.mlp.experts", "4.mlp.experts", "ayers.5.mlp.experts", "experts.7.up_proj"]
    found = asked(ling({**FP8_BLOCKS, "modules_to_not_convert": names}))
    assert found == {2: "fp8", 3: "unquantized", 4: "unquantized", 5: "fp8"}
    per_tensor = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    found = asked(ling({**per_tensor, "ignored_layers": names}))
    assert set(found.values()) == {"fp8"}


def test_the_names_of_another_class_are_whole_paths() -> None:
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_hidden_layers": 2,
        "quantization_config": {**FP8_BLOCKS, "ignored_layers": ["layers.1.mlp.experts"]},
    }
    assert asked(config) == {0: "fp8", 1: "fp8"}


def test_lings_routed_experts_may_be_mxfp4() -> None:
    block = {**FP8_BLOCKS, "routed_experts_quant_method": "mxfp4"}
    assert set(asked(ling(block)).values()) == {"mxfp4_deepseek_v4"}
    with pytest.raises(CheckpointRefusedError, match="must be mxfp4"):
        asked(ling({**block, "routed_experts_quant_method": "nvfp4"}))


def deepseek_v4(architecture: str = "DeepseekV4ForCausalLM", **block: Any) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": "deepseek_v41" if "41" in architecture else "deepseek_v4",
        "hidden_size": 4096,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "num_experts_per_tok": 6,
        "num_attention_heads": 64,
        "num_hidden_layers": 4,
        "norm_topk_prob": True,
        "swiglu_limit": 10.0,
        "quantization_config": {**FP8_BLOCKS, **block},
    }


@pytest.mark.parametrize("architecture", ["DeepseekV4ForCausalLM", "DeepseekV41ForCausalLM"])
@pytest.mark.parametrize("machine", [B200, ROCM])
def test_experts_that_an_nvfp4_export_ignores_stay_mxfp4(
    architecture: str, machine: dict[str, Any]
) -> None:
    ignore = ["mtp.*", "layers.0.ffn.*", "layers.2.ffn.experts", "model.layers.3.ffn.experts"]
    config = deepseek_v4(architecture, moe_quant_algo="NVFP4", ignore=ignore)
    kept = "mxfp4_deepseek_v4"
    assert asked(config, machine) == {0: kept, 1: "nvfp4", 2: kept, 3: "nvfp4"}


@pytest.mark.parametrize("machine", [CPU, XPU])
def test_other_platforms_do_not_know_ignored_experts(machine: dict[str, Any]) -> None:
    config = deepseek_v4(moe_quant_algo="NVFP4", ignore=["layers.*"])
    assert set(asked(config, machine).values()) == {"nvfp4"}


def test_deepseek_v41_has_its_expert_dtype_in_the_block() -> None:
    assert set(asked(deepseek_v4("DeepseekV41ForCausalLM", expert_dtype="fp8")).values()) == {"fp8"}
    assert set(asked(deepseek_v4(expert_dtype="fp8")).values()) == {"mxfp4_deepseek_v4"}


def test_flint_runs_nvfp4_experts_itself_on_one_gpu() -> None:
    config = {
        "architectures": ["FlintForCausalLM"],
        "model_type": "flint",
        "num_hidden_layers": 2,
        "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    }
    (layer,) = derive_layers(config, B200)
    assert layer.oracle is None
    assert "FlintNvfp4Experts" in layer.notes[0]
    assert set(asked(config, tensor_parallel_size=2).values()) == {"nvfp4"}
    assert set(asked(config, H100).values()) == {"nvfp4"}


MUSE = {
    "architectures": ["MuseSparkForConditionalGeneration"],
    "model_type": "my_moe",
    "num_hidden_layers": 2,
    "num_local_experts": 128,
    "num_experts_per_tok": 8,
    "num_shared_experts": 0,
    "mlp_layer_types": ["sparse", "sparse"],
    "moe_hidden_size": 2048,
    "hidden_size": 4096,
    "moe_intermediate_size": 512,
    "num_attention_heads": 32,
}


def test_muse_spark_takes_kernels_of_its_choice() -> None:
    assert set(asked(MUSE, H100).values()) == {None}
    assert set(asked(MUSE, ROCM).values()) == {None}
    with pytest.raises(CheckpointRefusedError, match="NVFP4 on CUDA"):
        asked({**MUSE, "quantization_config": FP8_BLOCKS})
    with pytest.raises(CheckpointRefusedError, match="Quark on ROCm"):
        asked({**MUSE, "quantization_config": FP8_BLOCKS}, ROCM)
    config = {**MUSE, "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
    (layer,) = derive_layers(config, B200)
    assert [one.concerns("VLLM_CUTLASS") for one in layer.loading] == [True]
    assert [one.concerns("FLASHINFER_TRTLLM") for one in layer.loading] == [False]
