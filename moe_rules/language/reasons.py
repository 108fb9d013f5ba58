"""The closed list of reason codes: why a kernel or a backend cannot serve a layer."""

from __future__ import annotations

from typing import Literal

from moe_rules.vocabulary.fact_values import Fact

ReasonCode = Literal[
    "device",
    "software",
    "act_and_mul",
    "activation",
    "quantization_scheme",
    "parallel_config",
    "hash_routing",
    "decomposed_routing",
    "routing_method",
    "router_logits_dtype",
    "in_dtype",
    "shape",
    "activation_format",
    "batch_invariance",
    "lora",
    "bias",
    "layer",
    "checkpoint",
    "request",
]

_BY_FACT: dict[str, ReasonCode] = {
    "is_act_and_mul": "act_and_mul",
    "activation": "activation",
    "swiglu_limit": "activation",
    "swiglu_alpha": "activation",
    "swiglu_beta": "activation",
    "activation_situ_beta": "activation",
    "activation_situ_linear_beta": "activation",
    "weight_key": "quantization_scheme",
    "activation_key": "quantization_scheme",
    "has_hash_routing": "hash_routing",
    "require_decomposed_backend": "decomposed_routing",
    "routing_method": "routing_method",
    "router_logits_dtype": "router_logits_dtype",
    "in_dtype": "in_dtype",
    "num_experts": "shape",
    "experts_per_token": "shape",
    "hidden_dim": "shape",
    "intermediate_size": "shape",
    "intermediate_size_per_partition": "shape",
    "intermediate_size_per_partition_unpadded": "shape",
    "activation_format": "activation_format",
    "VLLM_BATCH_INVARIANT": "batch_invariance",
    "is_lora_enabled": "lora",
    "has_bias": "bias",
    "may_have_bias": "bias",
    "use_all2all_kernels": "parallel_config",
    "all2all": "parallel_config",
}

_BY_GROUP: dict[str, ReasonCode] = {
    "platform": "device",
    "software": "software",
    "layer": "layer",
    "parallel": "parallel_config",
    "quantization": "checkpoint",
    "request": "request",
    "derived": "layer",
}


def reason_code(fact: Fact) -> ReasonCode:
    """The code of a clause that tests ``fact`` and fails."""
    return _BY_FACT.get(fact.name, _BY_GROUP[fact.group])
