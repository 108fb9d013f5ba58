"""Which experts tokens go to, as it is handed on, and as it follows from logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Routing(NamedTuple):
    """The experts of each token, and which of them are local.

    topk_ids: [M, topk], int32 or int64, global expert ids. expert_map: [global_num_experts] int32,
    the local index of each expert or -1; None: all experts are local. Which pairs are computed,
    :mod:`moe_kernels.modular_kernel` says.
    """

    topk_ids: torch.Tensor
    global_num_experts: int
    expert_map: torch.Tensor | None

    def contiguous(self) -> Routing:
        """The same, as kernels read it."""
        expert_map = None if self.expert_map is None else self.expert_map.contiguous()
        return Routing(self.topk_ids.contiguous(), self.global_num_experts, expert_map)

    def local_experts(self) -> torch.Tensor:
        """The local expert of each pair, [M, topk] int64, or -1: it has none, and is not computed.

        In kernels :func:`moe_kernels.ops.routing.local_expert` says the same.
        """
        ids = self.topk_ids.long()
        known = (ids >= 0) & (ids < self.global_num_experts)
        if self.expert_map is None:
            return torch.where(known, ids, -1)
        local = self.expert_map.long()[torch.where(known, ids, 0)]
        return torch.where(known & (local >= 0), local, -1)


def expert_map_of(
    num_experts: int, held: Sequence[int], device: torch.device | str = "cpu"
) -> torch.Tensor:
    """[num_experts] int32: the place in ``held``, a rank's experts in their order, or -1."""
    expert_map = torch.full((num_experts,), -1, dtype=torch.int32, device="cpu")
    expert_map[list(held)] = torch.arange(len(held), dtype=torch.int32, device="cpu")
    return expert_map.to(device)


CustomRoutingFunction = Callable[
    [torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]
]
"""A model's own routing: (hidden_states, router_logits, top_k) to (topk_weights, topk_ids).

vLLM's functions of this kind fit once their last argument, ``renormalize``, is bound.
"""

ROUTED = ("Default", "Renormalize", "RenormalizeNaive")
"""Those of :data:`moe_rules.vocabulary.layer.ROUTING_METHODS` that :func:`route` knows."""


def route(
    router_logits: torch.Tensor, top_k: int, routing_method: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``top_k`` likeliest experts of each token, and their weights.

    router_logits: [M, E], any floating dtype. "Default": weights are the softmax over all
    experts. "Renormalize" and "RenormalizeNaive": the softmax over the chosen ones, which is the
    same as dividing the others' by their sum. Returns topk_weights (float32) and topk_ids
    (int32), [M, top_k]. Raises ValueError for another method.
    """
    if routing_method not in ROUTED:
        raise ValueError(
            f"logits are not routed by {routing_method} here, only by {', '.join(ROUTED)}; "
            "choose the experts before, and use apply"
        )
    logits = router_logits.float()
    top_logits, topk_ids = logits.topk(top_k, dim=-1)
    if routing_method == "Default":
        topk_weights = torch.exp(top_logits - torch.logsumexp(logits, dim=-1, keepdim=True))
    else:
        topk_weights = torch.softmax(top_logits, dim=-1)
    return topk_weights, topk_ids.to(torch.int32)
