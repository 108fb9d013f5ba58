"""vLLM's ``TritonExperts`` and ``TritonWNA16Experts``, as its modular kernel runs them."""

from __future__ import annotations

from typing import Any

from moe_kernels.benchmark.peers import Peer, Run
from moe_kernels.testing import RandomLayer

from benchmarks.peers import vllm
from moe_rules.vocabulary.quant_keys import CHANNEL


def w8a8(layer: RandomLayer) -> Any:
    """VLLM's description of a scheme of FP8 or INT8 weights and activations."""
    config, quant = vllm.moe("config"), layer.quant_config
    assert quant.weight_key is not None
    per_channel = quant.weight_key.scale.group_shape == CHANNEL
    block = quant.weight_block_shape
    options: dict[str, Any] = {
        "w1_scale": quant.w13_scale,
        "w2_scale": quant.w2_scale,
        "a1_scale": quant.a13_scale,
        "a2_scale": quant.a2_scale,
        "w1_bias": quant.w13_bias,
        "w2_bias": quant.w2_bias,
        "per_act_token_quant": per_channel,
    }
    if quant.weight_format == "int8":
        return config.int8_w8a8_moe_quant_config(**options)
    return config.fp8_w8a8_moe_quant_config(
        **options,
        per_out_ch_quant=per_channel,
        block_shape=None if block is None else list(block),
    )


def integer_groups(layer: RandomLayer, **scales: Any) -> Any:
    """VLLM's description of a scheme of INT4 or INT8 weights in groups of columns."""
    quant = layer.quant_config
    assert quant.w13_scale is not None
    bits = 4 if quant.weight_format == "int4" else 8
    make = getattr(vllm.moe("config"), f"int{bits}_w{bits}a16_moe_quant_config")
    return make(**scales, block_shape=[0, layer.moe_config.hidden_dim // quant.w13_scale.shape[2]])


def _quant_config(layer: RandomLayer) -> Any:
    """VLLM's description of the layer's scheme; None for one that these experts do not run."""
    quant = layer.quant_config
    biases = {"w1_bias": quant.w13_bias, "w2_bias": quant.w2_bias}
    if quant.weight_key is None:
        return vllm.moe("config").biased_moe_quant_config(**biases)
    if quant.activation_key is None:
        # These experts leave biases out.
        unbiased = quant.w13_bias is None and quant.w2_bias is None
        if quant.weight_format not in ("int4", "uint8") or not unbiased:
            return None
        scales = {"w1_scale": quant.w13_scale, "w2_scale": quant.w2_scale}
        return integer_groups(layer, **scales, w1_zp=quant.w13_zp, w2_zp=quant.w2_zp)
    return w8a8(layer) if quant.weight_format in ("fp8", "int8") else None


def bind(layer: RandomLayer) -> Run | None:
    """The experts between the quantization of tokens and the sum, workspaces included."""
    scheme = _quant_config(layer)
    if scheme is None:
        return None
    quant, module = layer.quant_config, vllm.moe("experts.triton_moe")
    weight_only = quant.weight_key is not None and quant.activation_key is None
    experts = (module.TritonWNA16Experts if weight_only else module.TritonExperts)(
        layer.moe_config, scheme
    )
    sizes = layer.w13.shape[1], layer.w2.shape[1]
    return vllm.call(experts, layer, (layer.w13, layer.w2), sizes, scheme)


def about() -> str:
    """Its version, and whose operators run."""
    problem = vllm.compiled_problem()
    whose = "its own" if problem is None else f"this project's ({problem})"
    return f"vLLM {vllm.VERSION}, {whose} compiled operators"


PEERS = {
    "vllm_triton": Peer(bind, about, frozenset({"TritonExperts", "TritonWNA16Experts"})),
}
