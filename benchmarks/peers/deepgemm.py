"""DeepGEMM's grouped products in the contiguous layout: FP8 in blocks, and bf16.

Blocks run in vLLM's ``DeepGemmExperts`` at every number of tokens, and as a peer of its own in what
vLLM's backend takes, ``TritonOrDeepGemmExperts``: with few tokens or a small intermediate size
those are Triton's. vLLM has no such experts for bf16: the layer is put together here, of vLLM's
permutation for DeepGEMM, the two products, vLLM's activation and its weighted sum.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from moe_kernels.benchmark.peers import Peer, Run
from moe_kernels.testing import RandomLayer

from benchmarks.peers import vllm

VERSION = "2.8.1"


def bind(module: str, name: str, layer: RandomLayer) -> Run | None:
    """The experts ``name`` of a module of vLLM, with weights and scales converted by it."""
    quant = layer.quant_config
    if quant.weight_key is None or quant.weight_block_shape != (128, 128):
        return None
    if quant.w13_bias is not None:  # which these experts drop
        return None
    convert = vllm.quantization("fp8_utils").prepare_fp8_moe_layer_for_deepgemm
    scales = quant.w13_scale, quant.w2_scale
    w13, w2, w13_scale, w2_scale = convert(layer.w13, layer.w2, *scales, quant.weight_block_shape)
    scheme = vllm.moe("config").fp8_w8a8_moe_quant_config(
        w1_scale=w13_scale, w2_scale=w2_scale, block_shape=list(quant.weight_block_shape)
    )
    experts = getattr(vllm.moe(f"experts.{module}"), name)(vllm.MoEConfig(layer), scheme)
    return vllm.call(experts, layer, (w13, w2), (w13.shape[1], w2.shape[1]), scheme)


def bind_bf16(layer: RandomLayer) -> Run | None:
    """Permutation, product, activation, product, weighted sum."""
    quant, moe = layer.quant_config, layer.moe_config
    if quant.weight_key is not None or quant.w13_bias is not None:
        return None
    if moe.activation != "silu" or moe.in_dtype != "bf16":
        return None
    layout = vllm.moe("deep_gemm_utils")
    deep_gemm = vllm.module("utils.deep_gemm")
    deep_gemm._lazy_init()
    multiply: Any = _package().m_grouped_bf16_gemm_nt_contiguous
    rows, hidden = layer.w13.shape[1], layer.w2.shape[1]

    def run(tokens: RandomLayer) -> torch.Tensor:
        x = tokens.hidden_states
        permuted, _, ends, inverse, alignment = layout.deepgemm_moe_permute(
            aq=x,
            aq_scale=x.new_empty((len(x), hidden // 128), dtype=torch.float32),  # permuted as well
            topk_ids=tokens.topk_ids,
            local_num_experts=len(layer.w13),
            expert_map=layer.expert_map,
            expert_tokens_meta=None,
            use_psum_layout=True,
        )
        with deep_gemm.mk_alignment_scope(alignment):
            up = x.new_empty(len(permuted), rows)
            multiply(permuted, layer.w13, up, ends, use_psum_layout=True)
            activated = x.new_empty(len(permuted), rows // 2)
            torch.ops._C.silu_and_mul(activated, up)
            down = x.new_empty(len(permuted), hidden)
            multiply(activated, layer.w2, down, ends, use_psum_layout=True)
        output = torch.empty_like(x)
        layout.deepgemm_unpermute_and_reduce(
            a=down,
            topk_ids=tokens.topk_ids,
            topk_weights=tokens.topk_weights,
            inv_perm=inverse,
            expert_map=layer.expert_map,
            output=output,
        )
        return output

    return run


def _package() -> Any:
    import deep_gemm

    return deep_gemm


def _experts(module: str, name: str) -> Peer:
    return vllm.compiled_peer(partial(bind, module, name), f"DeepGEMM {VERSION} in {name}", name)


PEERS = {
    "deepgemm": _experts("deep_gemm_moe", "DeepGemmExperts"),
    "vllm_deepgemm": _experts("triton_deep_gemm_moe", "TritonOrDeepGemmExperts"),
    "deepgemm_bf16": vllm.compiled_peer(bind_bf16, f"DeepGEMM {VERSION}'s bf16 products"),
}
