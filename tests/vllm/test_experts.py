"""Kernels of moe_kernels as vLLM's own classes, given the weights that vLLM hands them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moe_rules.integrations.vllm.experts import vllm_class
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

EXPERTS, HIDDEN, INTERMEDIATE, TOKENS = 4, 128, 128, 9


def layer() -> Any:
    from vllm.model_executor.layers.fused_moe import config
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation

    sizes = dict.fromkeys(("tp_size", "pcp_size", "dp_size", "ep_size", "sp_size"), 1)
    ranks = dict.fromkeys(("tp_rank", "pcp_rank", "dp_rank", "ep_rank"), 0)
    parallel = config.FusedMoEParallelConfig(
        **sizes, **ranks, use_ep=False, all2all_backend="naive", enable_eplb=False
    )
    return config.FusedMoEConfig(
        num_experts=EXPERTS,
        experts_per_token=2,
        hidden_dim=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_local_experts=EXPERTS,
        num_logical_experts=EXPERTS,
        activation=MoEActivation.SILU,
        device="cpu",
        routing_method=config.RoutingMethodType.Renormalize,
        moe_parallel_config=parallel,
        in_dtype=torch.bfloat16,
    )


def error(cls: Any, quant_config: Any, w13: Any, w2: Any, values: Any) -> float:
    """The relative error of what a class computes, against the same with unquantized weights."""
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation

    tokens = torch.randn(TOKENS, HIDDEN).bfloat16()
    ids, weights = torch.randint(0, EXPERTS, (TOKENS, 2)).int(), torch.rand(TOKENS, 2)
    output = torch.empty(TOKENS, HIDDEN, dtype=torch.bfloat16)
    nothing = (None,) * 6
    cls(layer(), quant_config).apply(
        *(output, tokens, w13, w2, weights, ids, MoEActivation.SILU, EXPERTS), *nothing, False
    )
    wanted = torch.zeros(TOKENS, HIDDEN)
    for token, (experts, shares) in enumerate(zip(ids, weights, strict=True)):
        for expert, share in zip(experts, shares, strict=True):
            gate, up = (values[0][expert] @ tokens[token].float()).chunk(2)
            wanted[token] += share * (values[1][expert] @ (torch.nn.functional.silu(gate) * up))
    return float((output.float() - wanted).norm() / wanted.norm())


def random_weights() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    w13 = torch.randn(EXPERTS, 2 * INTERMEDIATE, HIDDEN) / HIDDEN**0.5
    return w13, torch.randn(EXPERTS, HIDDEN, INTERMEDIATE) / INTERMEDIATE**0.5


def test_fp8_in_blocks() -> None:
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config

    values = random_weights()
    blocks = [w.view(EXPERTS, -1, 128, 1, 128) for w in values]
    scales = [b.abs().amax((2, 4)) / 448 for b in blocks]
    w13, w2 = (
        (b / s[:, :, None, :, None]).to(torch.float8_e4m3fn).view(v.shape)
        for b, s, v in zip(blocks, scales, values, strict=True)
    )
    keys = NAMED_KEYS["kFp8Static128BlockSym"], NAMED_KEYS["kFp8Dynamic128Sym"]
    config = fp8_w8a8_moe_quant_config(
        w1_scale=scales[0], w2_scale=scales[1], block_shape=[128, 128]
    )
    cls: Any = vllm_class("CPUExpertsFp8W8A8")
    assert error(cls.for_keys(*keys), config, w13, w2, values) < 0.08


def test_int8_by_channel() -> None:
    from vllm.model_executor.layers.fused_moe.config import int8_w8a8_moe_quant_config

    values = random_weights()
    scales = [w.abs().amax(2, keepdim=True) / 127 for w in values]
    w13, w2 = ((w / s).round().to(torch.int8) for w, s in zip(values, scales, strict=True))
    keys = NAMED_KEYS["kInt8StaticChannelSym"], NAMED_KEYS["kInt8DynamicTokenSym"]
    config = int8_w8a8_moe_quant_config(
        w1_scale=scales[0],
        w2_scale=scales[1],
        a1_scale=None,
        a2_scale=None,
        per_act_token_quant=True,
    )
    cls: Any = vllm_class("CPUExpertsInt8")
    assert error(cls.for_keys(*keys), config, w13, w2, values) < 0.03


def test_formats_that_vllm_lays_out_for_its_own_kernels() -> None:
    cls: Any = vllm_class("OAITritonExperts")
    with pytest.raises(ValueError, match="OAITritonExperts of moe_kernels runs in vLLM with"):
        cls.for_keys(NAMED_KEYS["kMxfp4Static"], None)
