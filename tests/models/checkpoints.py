"""Small configurations from which the tests of models build theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moe_rules.models import Deployment, ModelLayer, derive_layers

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"
H100 = {"device": "cuda", "compute_capability": (9, 0)}
A100 = {"device": "cuda", "compute_capability": (8, 0)}
CPU = {"device": "cpu"}
XPU = {"device": "xpu"}


def qwen3(quantization: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A Qwen3 MoE of four layers."""
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        **fields,
    }
    return config if quantization is None else {**config, "quantization_config": quantization}


FP8_BLOCKS = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
INT4 = {"num_bits": 4, "type": "int", "group_size": 128}
AUTO_ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 128}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}


def compressed(
    weights: dict[str, Any], activations: dict[str, Any] | None, form: str, **fields: Any
) -> dict[str, Any]:
    """A compressed-tensors block with one group that targets every linear layer."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        **fields,
    }


FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": False}
FP8_TOKENS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}


QUARK = {
    "quant_method": "quark",
    "export": {"kv_cache_group": [], "pack_method": "order"},
    "exclude": [],
    "layer_type_quant_config": {},
}
"""What every block of Quark has, beside its schemes."""


def one(
    block: dict[str, Any] | None, machine: dict[str, Any] = H100, **deployment: Any
) -> ModelLayer:
    """The one kind of layer of a model with a quantization block."""
    (layer,) = derive_layers(qwen3(block), machine, Deployment(**deployment))
    return layer


def asked(layer: ModelLayer) -> tuple[str | None, str | None, str | None]:
    """The oracle and the names of its keys."""
    keys = (layer.weight_key, layer.activation_key)
    weight, activation = (None if key is None else key.name for key in keys)
    return layer.oracle, weight, activation
