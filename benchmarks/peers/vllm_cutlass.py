"""vLLM's ``CutlassExpertsFp8``: FP8 per channel and token, or per tensor."""

from __future__ import annotations

from moe_kernels.benchmark.peers import Run
from moe_kernels.testing import RandomLayer

from benchmarks.peers import vllm, vllm_triton
from moe_rules.vocabulary.quant_keys import CHANNEL, TENSOR


def bind(layer: RandomLayer) -> Run | None:
    """The experts with weights as they are in a checkpoint."""
    quant = layer.quant_config
    if quant.weight_key is None or quant.weight_format != "fp8":
        return None
    if quant.w13_bias is not None:  # which these experts drop
        return None
    if quant.weight_key.scale.group_shape not in (CHANNEL, TENSOR):
        return None
    scheme = vllm_triton.w8a8(layer)
    experts = vllm.moe("experts.cutlass_moe").CutlassExpertsFp8(vllm.MoEConfig(layer), scheme)
    sizes = layer.w13.shape[1], layer.w2.shape[1]
    return vllm.call(experts, layer, (layer.w13, layer.w2), sizes, scheme)


PEERS = {
    "cutlass_fp8": vllm.compiled_peer(bind, "CUTLASS FP8", "TritonOrCutlassExperts"),
}
