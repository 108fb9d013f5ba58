"""What is measured: our kernels and the alternatives, one small adapter each.

An adapter takes a layer and returns a function of the layer's tokens, or None if it does not run
such layers or is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812

from moe_kernels.bind import bind
from moe_kernels.testing import RandomLayer

Run = Callable[[RandomLayer], torch.Tensor]
Adapter = Callable[[RandomLayer], Run | None]


def ours(layer: RandomLayer) -> Run | None:
    """``TritonExperts`` of this project."""
    kernel = bind("TritonExperts", layer.moe_config, layer.quant_config)
    return lambda tokens: kernel.apply(**tokens.arguments())


def grouped_mm(layer: RandomLayer) -> Run | None:
    """The grouped GEMM of torch between a sort and its inverse, as transformers runs experts."""
    multiply = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if multiply is None or layer.quant_config.weight_key or layer.expert_map is not None:
        return None
    w13, w2 = layer.w13.transpose(1, 2), layer.w2.transpose(1, 2)
    num_experts = layer.w13.shape[0]

    def run(tokens: RandomLayer) -> torch.Tensor:
        num_tokens, top_k = tokens.topk_ids.shape
        experts = tokens.topk_ids.flatten()
        order = torch.argsort(experts)
        inverse = torch.argsort(order)
        counts = torch.histc(experts.float(), bins=num_experts, min=0, max=num_experts - 1)
        offsets = counts.cumsum(0).to(torch.int32)
        gate, up = multiply(tokens.hidden_states[order // top_k], w13, offs=offsets).chunk(2, -1)
        down = multiply(F.silu(gate) * up, w2, offs=offsets)
        weighted = down * tokens.topk_weights.flatten()[order, None]
        output: torch.Tensor = weighted[inverse].view(num_tokens, top_k, -1).sum(dim=1)
        return output.to(down.dtype)

    return run


PEERS: Mapping[str, Adapter] = {
    "moe_rules": ours,
    "grouped_mm": grouped_mm,
}
"""By name. The first is ours, whose ratios to the others are reported."""
