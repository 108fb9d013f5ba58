"""A tiny model with random weights of every architecture of transformers that takes an experts
implementation, from one table of small sizes."""

import importlib
import inspect
import os
import pkgutil

import torch
import transformers
from transformers import PreTrainedModel

LAYERS = 4
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "top_k", "top_k_experts", "moe_topk")
SIZES = {
    **dict.fromkeys(EXPERTS, 8),
    **dict.fromkeys(TOP_K, 2),
    "vocab_size": 128,
    "vocab_size_per_layer_input": 128,
    "max_position_embeddings": 256,
    "sliding_window": 16,
    "num_hidden_layers": LAYERS,
    "first_k_dense_replace": 0,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 48,
    "moe_intermediate_size": 32,
    "moe_hidden_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_shared_experts": 1,
    "topk_group": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 16,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "qk_head_dim": 24,
    "v_head_dim": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_head_dim": 16,
    "linear_num_heads": 2,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "n_group": 1,
    "unpadded_vocab_size": 128,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
"""Fields of configurations, whatever the architecture: those that it has are set."""

LATENT = {"qk_rope_head_dim": {"head_dim": 8, "num_key_value_heads": 4}}
"""Further fields where an architecture has one: heads that share a latent have no groups."""

SPARSE = {"mlp_layer_types": ["sparse"] * LAYERS}
MIXED = {"layer_types": ["linear_attention", "full_attention"] * (LAYERS // 2)}
OTHERS = {
    "bailing_hybrid": {"layer_group_size": 2, **MIXED},
    "deepseek_ocr2": SPARSE,
    "diffusion_gemma": {"enable_moe_block": True},
    "dots3_note": {"num_key_value_heads": 4},
    "ernie4_5_vl_moe": {
        "moe_intermediate_size": [32, 32],
        "rope_parameters": {"rope_type": "default", "mrope_section": [3, 3, 2]},
        **SPARSE,
    },
    "gemma4": {"enable_moe_block": True},
    "glm4v_moe": {
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [1, 1, 2],
            "partial_rotary_factor": 0.5,
        }
    },
    "glm5_next": {"index_topk": 32, "qk_rope_head_dim": 0, "head_dim": 0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * (LAYERS // 2)},
    "hy_v4_vl": {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "kimi_linear": MIXED,
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"] * (LAYERS // 2),
        "num_dense_layers": 2,
    },
    "qwen4_exp": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "zaya": dict.fromkeys(TOP_K, 1),
}
"""Fields that a single architecture needs otherwise."""


def architectures(*only: str) -> dict[str, list[type[PreTrainedModel]]]:
    """The models that take an experts implementation, by the module that they are in."""
    found = {}
    folder = os.path.dirname(transformers.models.__file__)
    for name in only or sorted(entry.name for entry in pkgutil.iter_modules([folder])):
        path = os.path.join(folder, name)
        for file in sorted(f for f in os.listdir(path) if f.startswith("modeling_")):
            with open(os.path.join(path, file), encoding="utf-8") as source:
                if "@use_experts_implementation" not in source.read():
                    continue
            module = importlib.import_module(f"transformers.models.{name}.{file[:-3]}")
            found[name] = [
                cls
                for cls in vars(module).values()
                if inspect.isclass(cls)
                and issubclass(cls, PreTrainedModel)
                and cls.__module__ == module.__name__
                and cls._can_set_experts_implementation()
            ]
    return found


def text_model(classes: list[type[PreTrainedModel]]) -> type[PreTrainedModel]:
    """The class to try: one that generates text, else one that reads it."""
    alone = [
        cls
        for cls in classes
        if inspect.isclass(cls.config_class)
        and not cls.config_class.sub_configs
        and not cls.__name__.endswith("PreTrainedModel")
    ]
    for ending in ("ForCausalLM", "TextModel", "ForTokenClassification"):
        for cls in alone:
            if cls.__name__.endswith(ending):
                return cls
    raise LookupError(f"none of {', '.join(cls.__name__ for cls in classes)} reads text alone")


def tiny(
    name: str, cls: type[PreTrainedModel], dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model of the table's sizes, whose experts and routers matter to what it computes."""
    fields = {*cls.config_class.__dataclass_fields__, *cls.config_class.attribute_map}
    sizes = {field: value for field, value in SIZES.items() if field in fields}
    for field, others in LATENT.items():
        sizes |= {other: value for other, value in others.items() if field in sizes}
    sizes |= {field: value for field, value in OTHERS.get(name, {}).items() if field in fields}
    torch.manual_seed(0)
    model = cls._from_config(cls.config_class(**sizes), dtype=dtype).eval()
    for path, parameter in model.named_parameters():
        if ".experts." in path or (parameter.dim() == 2 and not parameter.any()):
            std = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
            torch.nn.init.normal_(parameter, std=std)
    return model
