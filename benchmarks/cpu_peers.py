"""What the CPU benchmark measures: our experts and the alternatives, one small adapter each.

An adapter takes a layer and returns a function of the layer's tokens, or None if it does not run
such layers or is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from moe_kernels.benchmark.peers import Adapter, Run
from moe_kernels.bind import bind
from moe_kernels.testing import RandomLayer

GATHERED_BYTES = 4 << 30
"""batched_mm copies the weights of every pair of token and expert; beyond this it is left out."""


def ours(layer: RandomLayer) -> Run | None:
    """The CPU experts that execute the layer's scheme."""
    names = {None: "CPUUnquantizedExperts", "fp8": "CPUExpertsFp8"}
    quantized = layer.quant_config.activation_key is not None
    name = "CPUExpertsFp8W8A8" if quantized else names[layer.quant_config.weight_format]
    kernel = bind(name, layer.moe_config, layer.quant_config)
    return lambda tokens: kernel.apply(**tokens.arguments())


def ours_packed(layer: RandomLayer) -> Run | None:
    """The same with weights packed at load time, where that is possible."""
    if layer.quant_config.weight_key is not None:
        return None
    kernel = bind("CPUUnquantizedExperts", layer.moe_config, layer.quant_config)
    try:
        w13, w2 = kernel.experts.pack_weights(layer.w13, layer.w2)
    except ValueError:
        return None
    return lambda tokens: kernel.apply(**tokens.arguments() | {"w13": w13, "w2": w2})


def transformers(implementation: str) -> Adapter:
    """The experts module of transformers' Qwen3-MoE and Mixtral with one of its implementations.

    Routing weights are in the layer's dtype, as its router gives them.
    """

    def adapter(layer: RandomLayer) -> Run | None:
        if layer.quant_config.weight_key is not None:
            return None
        try:
            from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
            from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts
        except ImportError:
            return None
        config = layer.moe_config
        model_config = Qwen3MoeConfig(
            num_experts=config.num_experts,
            num_experts_per_tok=config.experts_per_token,
            hidden_size=config.hidden_dim,
            moe_intermediate_size=config.intermediate_size_per_partition,
            hidden_act="silu",
        )
        model_config._experts_implementation = implementation
        with torch.device("meta"):
            experts = Qwen3MoeExperts(model_config)
        experts.gate_up_proj = torch.nn.Parameter(layer.w13, requires_grad=False)
        experts.down_proj = torch.nn.Parameter(layer.w2, requires_grad=False)
        per_pair = layer.w13[0].nbytes

        def run(tokens: RandomLayer) -> torch.Tensor:
            if implementation == "batched_mm" and per_pair * tokens.topk_ids.numel() > (
                GATHERED_BYTES
            ):
                raise MemoryError(f"{implementation} would copy more than {GATHERED_BYTES} bytes")
            weights = tokens.topk_weights.to(tokens.hidden_states.dtype)
            output: torch.Tensor = experts(tokens.hidden_states, tokens.topk_ids.long(), weights)
            return output

        return run

    return adapter


PEERS: Mapping[str, Callable[[RandomLayer], Run | None]] = {
    "moe_rules": ours,
    "moe_rules packed": ours_packed,
    "transformers eager": transformers("eager"),
    "transformers batched_mm": transformers("batched_mm"),
    "transformers grouped_mm": transformers("grouped_mm"),
}
"""By name."""

OURS = ("moe_rules", "moe_rules packed")
"""Which of them are ours."""
