from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, Deployment, UnknownModelError, derive_layers
from tests.models.checkpoints import CPU, H100, qwen3

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
}


@pytest.mark.parametrize(
    "names",
    [
        ["LlamaForCausalLM"],
        ["LlamaForRewardModeling"],
        ["BertModel"],
        ["Qwen2VLForConditionalGeneration"],
        None,
    ],
)
def test_a_dense_model_has_no_moe_layers(names: list[str] | None) -> None:
    assert derive_layers({**LLAMA, "architectures": names}, H100) == []


@pytest.mark.parametrize("fields", [{"mlp_only_layers": [0, 1, 2, 3]}, {"num_experts": 0}])
def test_a_class_for_moe_models_only_refuses_a_dense_one(fields: dict[str, Any]) -> None:
    with pytest.raises(CheckpointRefusedError, match="no MoE layers"):
        derive_layers(qwen3(**fields), H100)
    qwen2 = {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe"}
    assert derive_layers(qwen3(mlp_only_layers=[0, 1, 2, 3], **qwen2), H100) == []


def test_a_dense_language_model_inside_a_vision_model() -> None:
    config = {"architectures": ["LlavaForConditionalGeneration"], "text_config": LLAMA}
    assert derive_layers(config, H100) == []
    unnamed = {**LLAMA, "architectures": None}
    assert derive_layers({**config, "text_config": unnamed}, H100) == []


def test_a_moe_language_model_inside_a_vision_model() -> None:
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": qwen3(architectures=None),
        "quantization_config": {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "modules_to_not_convert": ["model.language_model.layers.0.mlp.experts"],
        },
    }
    first, others = derive_layers(config, H100)
    assert first.module == "language_model.model.layers.0.mlp.experts"
    assert (first.oracle, others.oracle) == ("unquantized", "fp8")


@pytest.mark.parametrize(
    "names",
    [
        ["Qwen3MoeForSequenceClassification"],
        ["Qwen3MoeModel"],
        ["NobodyKnowsForCausalLM", "Qwen3MoeForCausalLM"],
        None,
    ],
)
def test_names_that_vllm_resolves_to_a_model_it_has(names: list[str] | None) -> None:
    (layer,) = derive_layers(qwen3(architectures=names), H100)
    assert layer.layers == (0, 1, 2, 3)


def test_a_configuration_without_any_name() -> None:
    with pytest.raises(UnknownModelError, match="names no architecture"):
        derive_layers(qwen3(architectures=None, model_type="nobody_knows"), H100)


@pytest.mark.parametrize("name", [..., None, ""])
def test_a_configuration_without_a_type_has_no_class(name: object) -> None:
    config = {key: value for key, value in {**qwen3(), "model_type": name}.items() if value != ...}
    with pytest.raises(CheckpointRefusedError, match=r"config\.json gives no model_type"):
        derive_layers(config, H100)
    assert derive_layers({**config, "auto_map": {"AutoConfig": "mine.MyConfig"}}, H100)
    longcat = {**config, "architectures": ["LongcatFlashForCausalLM"], "n_routed_experts": 8}
    routing = {"moe_topk": 2, "zero_expert_type": "identity"}
    (layer,) = derive_layers({**longcat, **routing, "expert_ffn_hidden_size": 64}, H100)
    assert layer.runtime == {"model_type": "longcat_flash"}


def test_an_architecture_that_vllm_cannot_run() -> None:
    with pytest.raises(CheckpointRefusedError, match="encoder-decoder"):
        derive_layers({"architectures": ["NllbMoeForConditionalGeneration"]}, H100)


GLM = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "num_hidden_layers": 3,
}


def test_a_field_that_only_the_model_class_reads_must_be_there() -> None:
    with pytest.raises(CheckpointRefusedError, match="reads first_k_dense_replace") as refused:
        derive_layers(GLM, H100)
    assert refused.value.stage == "model"
    (layer,) = derive_layers({**GLM, "first_k_dense_replace": 1}, H100)
    assert layer.layers == (1, 2)


def test_a_number_of_dense_layers_below_zero_is_none() -> None:
    (layer,) = derive_layers({**GLM, "first_k_dense_replace": -1}, H100)
    assert layer.layers == (0, 1, 2)


def test_null_is_no_number_of_dense_layers() -> None:
    with pytest.raises(CheckpointRefusedError, match="no number for first_k_dense_replace"):
        derive_layers({**GLM, "first_k_dense_replace": None}, H100)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("DeepseekV3ForCausalLM", "moe_layer_freq"),
        ("Qwen2MoeForCausalLM", "decoder_sparse_step"),
        ("Ernie4_5_MoeForCausalLM", "moe_layer_interval"),
        ("KimiLinearForCausalLM", "moe_layer_freq"),
    ],
)
def test_zero_divides_no_layers(name: str, field: str) -> None:
    experts = {"n_routed_experts": 8, "moe_num_experts": 8, "first_k_dense_replace": 1}
    more = {"moe_layer_start_index": 0, "moe_layer_end_index": -1, "mla_use_nope": True}
    config = qwen3(architectures=[name], model_type="my_moe", **experts, **more, **{field: 0})
    with pytest.raises(CheckpointRefusedError, match=f"gives 0 for {field}, by which") as refused:
        derive_layers(config, H100)
    assert refused.value.stage == "model"


def test_zero_is_not_divided_by_where_no_layer_asks() -> None:
    fields = {"n_routed_experts": 8, "first_k_dense_replace": 4, "moe_layer_freq": 0}
    deepseek = qwen3(architectures=["DeepseekV3ForCausalLM"], model_type="my_moe", **fields)
    assert derive_layers(deepseek, H100) == []


def test_the_first_of_moe_layers_may_have_a_point() -> None:
    fields = {"n_routed_experts": 8, "first_k_dense_replace": 2.0, "moe_layer_freq": 1.0}
    deepseek = qwen3(architectures=["DeepseekV3ForCausalLM"], model_type="mine", **fields)
    (layer,) = derive_layers(deepseek, H100)
    assert layer.layers == (2, 3)


def test_no_step_between_experts_of_llama4_is_a_dense_model() -> None:
    config = qwen3(architectures=["Llama4ForCausalLM"], model_type="my_moe", num_local_experts=8)
    assert derive_layers({**config, "interleave_moe_layer_step": 0}, H100) == []


@pytest.mark.parametrize(
    ("name", "fields", "layers"),
    [
        ("BeamForCausalLM", {"mlp_layer_types": ["dense", "sparse", "dense", "sparse"]}, (1, 3)),
        ("FlintForCausalLM", {"mlp_only_layers": [0, 1]}, (2, 3)),
        ("InklingForConditionalGeneration", {"dense_mlp_idx": 2, "intermediate_size": 64}, (2, 3)),
        ("LagunaForCausalLM", {"mlp_layer_types": None}, (1, 2, 3)),
    ],
)
def test_which_layers_are_moe(name: str, fields: dict[str, Any], layers: tuple[int, ...]) -> None:
    more = {"padded_vocab_size": 1, "use_embed_norm": False}
    config = {**qwen3(architectures=[name], model_type="my_moe"), **more, **fields}
    found = derive_layers(config, H100)
    assert [layer.layers for layer in found] == [layers]


@pytest.mark.parametrize(
    ("name", "field"),
    [("Qwen2MoeForCausalLM", 0), ("DeepseekV3ForCausalLM", None), ("MellumForCausalLM", None)],
)
def test_without_experts_some_models_are_dense(name: str, field: int | None) -> None:
    none = {"num_experts": field, "n_routed_experts": field, "first_k_dense_replace": 0}
    assert derive_layers(qwen3(architectures=[name], model_type="my_moe", **none), H100) == []


def test_no_experts_are_refused_where_the_model_class_builds_layers_all_the_same() -> None:
    with pytest.raises(CheckpointRefusedError, match="num_experts must be at least 1"):
        derive_layers(qwen3(architectures=["OlmoeForCausalLM"], num_experts=0), H100)


MINICPM = {
    "architectures": ["MiniCPMForCausalLM"],
    "model_type": "minicpm",
    "hidden_size": 2304,
    "intermediate_size": 5760,
    "num_experts_per_tok": 2,
    "num_attention_heads": 36,
    "num_hidden_layers": 40,
}


def test_a_model_that_calls_its_kernels_without_an_oracle() -> None:
    (layer,) = derive_layers({**MINICPM, "num_experts": 8}, H100)
    assert layer.oracle is None
    assert layer.layers == tuple(range(40))
    assert "fused_experts" in layer.notes[0]
    assert (layer.moe.num_experts, layer.moe.intermediate_size) == (8, 5760)
    assert derive_layers({**MINICPM, "num_experts": 0}, H100) == []
    assert derive_layers(MINICPM, H100) == []


def test_an_encoder_with_experts_in_every_second_layer() -> None:
    config = {
        "architectures": ["NomicBertModel"],
        "model_type": "nomic_bert",
        "n_embd": 768,
        "n_inner": 3072,
        "n_layer": 12,
        "num_experts": 8,
        "moe_top_k": 2,
        "moe_every_n_layers": 2,
        "activation_function": "gelu",
    }
    (layer,) = derive_layers(config, H100)
    assert layer.layers == (1, 3, 5, 7, 9, 11)
    assert layer.moe.activation == "gelu_no_mul"
    assert derive_layers({**config, "moe_every_n_layers": 0}, H100) == []


BLOCKS = [
    {
        "block_type": "moe",
        "n_routed_experts": 64,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1280,
    },
    {"block_type": "mamba"},
    {
        "block_type": "moe",
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 1856,
    },
    {
        "block_type": "moe",
        "n_routed_experts": 32,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1280,
    },
    {
        "block_type": "moe",
        "n_routed_experts": 64,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1280,
    },
]
PUZZLE = {
    "architectures": ["NemotronHPuzzleForCausalLM"],
    "model_type": "nemotron_h_puzzle",
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "moe_latent_size": 1024,
    "num_attention_heads": 32,
    "num_hidden_layers": 5,
    "hybrid_override_pattern": "EMEEE",
    "mlp_hidden_act": "relu2",
    "block_configs": BLOCKS,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
}


def test_sizes_that_differ_by_layer() -> None:
    found = derive_layers(PUZZLE, H100)
    sizes = {
        layer.layers: (
            layer.moe.num_experts,
            layer.moe.experts_per_token,
            layer.moe.intermediate_size,
        )
        for layer in found
    }
    assert sizes == {(0, 4): (64, 4, 1280), (2,): (64, 6, 1856), (3,): (32, 4, 1280)}
    assert {layer.moe.hidden_dim for layer in found} == {1024}


def test_experts_are_counted_in_the_blocks_for_expert_parallelism() -> None:
    deployment = Deployment(tensor_parallel_size=2, enable_expert_parallel=True)
    assert {
        layer.moe.moe_parallel_config.ep_size for layer in derive_layers(PUZZLE, H100, deployment)
    } == {2}
    nothing = {**PUZZLE, "block_configs": [{"block_type": "mamba"}] * 5}
    with pytest.raises(CheckpointRefusedError, match="finds no number of experts"):
        derive_layers(nothing, H100, deployment)


def test_a_layer_without_a_block_of_its_own_has_the_fields_of_the_configuration() -> None:
    config = {**PUZZLE, "block_configs": BLOCKS[:2], "n_routed_experts": 16}
    config |= {"num_experts_per_tok": 2, "moe_intermediate_size": 512}
    found = {layer.layers: layer.moe.num_experts for layer in derive_layers(config, H100)}
    assert found == {(0,): 64, (2, 3, 4): 16}


def test_cpu_has_the_same_dense_models() -> None:
    assert derive_layers(LLAMA, CPU) == []


AITER = {"device": "rocm", "gfx": "gfx950", "aiter": True, "aiter_fused_moe_quant_dtype_a": True}
A4W4 = {"VLLM_ROCM_USE_AITER_MOE_A4W4_DSV4": "1", "VLLM_ROCM_USE_AITER": "1"}


def test_the_switch_for_one_model_is_refused_for_others() -> None:
    with pytest.raises(CheckpointRefusedError, match="is for DeepSeek V4") as refused:
        derive_layers(qwen3(), AITER, Deployment(env=A4W4))
    assert refused.value.stage == "model"


@pytest.mark.parametrize(
    ("machine", "env"),
    [
        (AITER, {**A4W4, "VLLM_ROCM_USE_AITER": "0"}),
        (AITER, {**A4W4, "VLLM_ROCM_USE_AITER_MOE": "0"}),
        (AITER, {**A4W4, "VLLM_ROCM_USE_AITER_MOE_A4W4_DSV4": "0"}),
        ({**AITER, "aiter": False}, A4W4),
        ({**AITER, "gfx": "gfx1100"}, A4W4),
        (H100, A4W4),
    ],
)
def test_the_switch_counts_only_where_aiter_runs(
    machine: dict[str, Any], env: dict[str, str]
) -> None:
    assert derive_layers(qwen3(), machine, Deployment(env=env))


def test_the_switch_needs_an_aiter_that_knows_it() -> None:
    config = {
        **qwen3(architectures=["DeepseekV41ForCausalLM"], model_type="deepseek_v41"),
        "n_routed_experts": 128,
    }
    assert derive_layers(config, AITER, Deployment(env=A4W4))
    old = {**AITER, "aiter_fused_moe_quant_dtype_a": False}
    with pytest.raises(CheckpointRefusedError, match="quant_dtype_a"):
        derive_layers(config, old, Deployment(env=A4W4))


@pytest.mark.parametrize(
    ("deployment", "why"),
    [
        (Deployment(tensor_parallel_size=2, enable_expert_parallel=True, enable_eplb=True), "EPLB"),
        (
            Deployment(tensor_parallel_size=2, data_parallel_size=2, enable_expert_parallel=True),
            "sequence-parallel",
        ),
    ],
)
def test_beam_is_refused_where_it_is_not_validated(deployment: Deployment, why: str) -> None:
    beam = qwen3(architectures=["BeamForCausalLM"], model_type="my_moe")
    beam["mlp_layer_types"] = ["sparse"] * 4
    with pytest.raises(CheckpointRefusedError, match=why):
        derive_layers(beam, H100, deployment)


@pytest.mark.parametrize("name", ["Dots1ForCausalLM", "SolarOpenForCausalLM"])
@pytest.mark.parametrize("groups", [1, 0])
def test_models_through_transformers_route_themselves_without_groups(
    name: str, groups: int
) -> None:
    fields = {"n_routed_experts": 8, "first_k_dense_replace": 0, "n_group": groups, "topk_group": 1}
    (layer,) = derive_layers(qwen3(architectures=[name], model_type="my_moe", **fields), H100)
    expected = ("DeepSeekV3", "fp32") if groups else ("Custom", "bf16")
    assert (layer.moe.routing_method, layer.moe.router_logits_dtype) == expected


@pytest.mark.parametrize("missing", ["num_expert_group", "topk_group"])
def test_kimi_needs_the_numbers_of_groups_where_it_uses_them(missing: str) -> None:
    config = {
        **qwen3(architectures=["KimiLinearForCausalLM"], model_type="kimi_linear"),
        "mla_use_nope": True,
        missing: None,
    }
    with pytest.raises(CheckpointRefusedError, match="experts by groups"):
        derive_layers(config, H100)
    assert derive_layers({**config, "use_grouped_topk": False}, H100)


@pytest.mark.parametrize(("groups", "method"), [(1, "RenormalizeNaive"), (None, "Custom")])
def test_mistral4_without_groups_routes_itself(groups: int | None, method: str) -> None:
    config = {"architectures": ["Mistral4ForCausalLM"], "model_type": "mistral4"}
    (layer,) = derive_layers({**config, "n_group": groups}, H100)
    assert layer.moe.routing_method == method
