"""OpenAI's ``triton_kernels`` as vLLM ships and calls them: ``matmul_ogs`` for bf16 and MXFP4.

Routing data is made of topk ids as vLLM's ``OAITritonExperts`` makes it, within the measured time.
gpt-oss' activation is fused into the first product; silu runs between the products.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from moe_kernels.benchmark.peers import Peer, Run
from moe_kernels.testing import RandomLayer

from benchmarks.peers import vllm


def _module() -> Any:
    """VLLM's module of these experts."""
    return vllm.moe("experts.gpt_oss_triton_kernels_moe")


def _weights(layer: RandomLayer) -> tuple[Any, Any, Any]:
    """w13, w2 and vLLM's description of the scheme, as its loading leaves them."""
    _module()
    config, quant = vllm.moe("config"), layer.quant_config
    # matmul_ogs adds biases in float32, and vLLM keeps them so.
    biases = {
        "w1_bias": None if quant.w13_bias is None else quant.w13_bias.float(),
        "w2_bias": None if quant.w2_bias is None else quant.w2_bias.float(),
    }
    # What MXFP4 asks for holds for everything after it.
    options = importlib.import_module("triton_kernels.matmul_ogs_details.opt_flags")
    options.reset_opt_flags_constraints()
    if quant.weight_key is None:
        # Columns of a product are rows of a weight, one after the other.
        transposed = layer.w13.transpose(1, 2), layer.w2.transpose(1, 2)
        return *transposed, config.biased_moe_quant_config(**biases)
    swizzle = vllm.quantization("mxfp4_utils")._swizzle_mxfp4
    ogs = importlib.import_module("triton_kernels.matmul_ogs")
    values, precisions = [], []
    for weight, scale in ((layer.w13, quant.w13_scale), (layer.w2, quant.w2_scale)):
        value, flex, swizzled = swizzle(weight, scale)
        values.append(value)
        flex_ctx = ogs.FlexCtx(rhs_data=flex)
        precisions.append(ogs.PrecisionConfig(weight_scale=swizzled, flex_ctx=flex_ctx))
    scheme = config.mxfp4_w4a16_moe_quant_config(*precisions, **biases)
    return values[0], values[1], scheme


def bind(layer: RandomLayer) -> Run | None:
    """The experts, routing data included; bf16 layers in bf16 or MXFP4."""
    moe, quant = layer.moe_config, layer.quant_config
    if moe.in_dtype != "bf16" or moe.activation not in ("silu", "swigluoai"):
        return None
    if quant.activation_key is not None or quant.weight_format not in (None, "mxfp4"):
        return None
    module = _module()
    w13, w2, scheme = _weights(layer)
    local, intermediate = len(layer.w13), moe.intermediate_size_per_partition
    activation = vllm.activation_of(layer)
    remap = vllm.moe("utils").remap_topk_to_local

    def run(tokens: RandomLayer) -> torch.Tensor:
        x, ids = tokens.hidden_states, tokens.topk_ids
        num_tokens, topk = ids.shape
        if layer.expert_map is not None:
            ids = remap(ids, layer.expert_map)
        routing, gather, scatter = module.make_routing_data(ids, tokens.topk_weights, local)
        output = torch.empty_like(x)
        intermediate_cache = x.new_empty(num_tokens * topk, intermediate)
        if moe.activation == "swigluoai":
            module.triton_kernel_fused_experts(
                output,
                x,
                w13,
                w2,
                routing,
                gather,
                scatter,
                topk=topk,
                activation=activation,
                quant_config=scheme,
                global_num_experts=local,
                intermediate_cache=intermediate_cache,
            )
            return output
        up = module.matmul_ogs(
            x,
            w13,
            scheme.w1_bias,
            routing,
            gather_indx=gather,
            precision_config=scheme.w1_precision,
        )
        torch.ops._C.silu_and_mul(intermediate_cache, up.view(-1, 2 * intermediate))
        module.matmul_ogs(
            intermediate_cache,
            w2,
            scheme.w2_bias,
            routing,
            scatter_indx=scatter,
            precision_config=scheme.w2_precision,
            gammas=routing.gate_scal,
            y=output.view(1, num_tokens, -1),
        )
        return output

    return run


def about() -> str:
    """Whose they are."""
    _module()
    return f"OpenAI's triton_kernels in vLLM {vllm.VERSION}"


PEERS = {"triton_kernels": Peer(bind, about, frozenset({"OAITritonExperts"}))}
