"""Prepare and finalize in the batched format, where no token leaves its rank."""

from __future__ import annotations

import torch

from moe_kernels.modular_kernel import (
    FusedMoEActivationFormat,
    FusedMoEExperts,
    FusedMoEPrepareAndFinalize,
    PrepareResult,
)
from moe_kernels.ops.library import register_operator
from moe_kernels.routing import Routing


def _fake_batch_rows(
    topk_ids: torch.Tensor, expert_map: torch.Tensor | None, num_local_experts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    counts = topk_ids.new_empty(num_local_experts, dtype=torch.int32)
    return counts, topk_ids.new_empty(topk_ids.shape, dtype=torch.int64)


@register_operator(_fake_batch_rows)
def batch_rows(
    topk_ids: torch.Tensor, expert_map: torch.Tensor | None, num_local_experts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each (token, expert) pair goes: an expert's pairs in order, from its first row on.

    Returns expert_num_tokens [num_local_experts] int32, and the row of each pair [M, topk] int64,
    counted over [num_local_experts, M]; num_local_experts * M for pairs without a local expert.
    """
    num_tokens = topk_ids.shape[0]
    ids = topk_ids.flatten().long()
    if expert_map is not None:
        valid = (ids >= 0) & (ids < expert_map.numel())
        ids = torch.where(valid, expert_map.long()[ids.clamp(0, expert_map.numel() - 1)], -1)
    # Pairs without an expert are counted with an extra one, the last.
    ids = torch.where((ids >= 0) & (ids < num_local_experts), ids, num_local_experts)
    counts = ids.new_zeros(num_local_experts + 1).scatter_add_(0, ids, torch.ones_like(ids))
    order = torch.argsort(ids, stable=True)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(ids)
    rank[order] = torch.arange(len(ids), device=ids.device) - first[ids[order]]
    rows = torch.where(
        ids < num_local_experts, ids * num_tokens + rank, num_local_experts * num_tokens
    )
    return counts[:-1].to(torch.int32), rows.view(topk_ids.shape)


def _fake_scatter_rows(x: torch.Tensor, rows: torch.Tensor, num_experts: int) -> torch.Tensor:
    return x.new_empty(num_experts, x.shape[0], x.shape[1])


@register_operator(_fake_scatter_rows)
def scatter_rows(x: torch.Tensor, rows: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Rows of ``x`` [M, K], each to the ``rows`` [M, topk] of its pairs: [num_experts, M, K].

    Zero elsewhere.
    """
    num_tokens, columns = x.shape
    # Not every device copies rows of FP8; bits are bits.
    bits = x.view(torch.uint8) if x.dtype.itemsize == 1 else x
    out = bits.new_zeros(num_experts * num_tokens + 1, columns)
    out.index_copy_(0, rows.flatten(), bits.repeat_interleave(rows.shape[1], 0))
    # An operator may not return a view of what it holds.
    return out[:-1].view(x.dtype).view(num_experts, num_tokens, columns).clone()


def _fake_combine_rows(
    x: torch.Tensor, rows: torch.Tensor, topk_weights: torch.Tensor | None
) -> torch.Tensor:
    return x.new_empty(rows.shape[0], x.shape[-1])


@register_operator(_fake_combine_rows)
def combine_rows(
    x: torch.Tensor, rows: torch.Tensor, topk_weights: torch.Tensor | None
) -> torch.Tensor:
    """Undo :func:`scatter_rows` on ``x`` [num_experts, M, H], with a weighted sum in float32.

    ``topk_weights`` [M, topk] None: the tokens are weighed already. Returns [M, H].
    """
    flat = x.reshape(-1, x.shape[-1])
    local = rows < flat.shape[0]
    if flat.shape[0] == 0:
        return x.new_zeros(rows.shape[0], x.shape[-1])
    values = flat[rows.clamp(max=flat.shape[0] - 1)].float()
    weights = local.float() if topk_weights is None else local * topk_weights.float()
    return (values * weights[..., None]).sum(dim=1).to(x.dtype)


class BatchedPrepareAndFinalize(FusedMoEPrepareAndFinalize):
    """Every rank has all tokens, and groups those of its own experts.

    A token's experts are different ones, so that no expert gets more rows than there are tokens:
    hidden_states become [num_local_experts, M, H]. vLLM's class of this name.
    """

    activation_format = FusedMoEActivationFormat.BatchedExperts

    def prepare(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor | None,
        routing: Routing,
        experts: FusedMoEExperts,
        num_local_experts: int,
    ) -> PrepareResult:
        """Quantize the tokens as ``experts`` ask, and group them."""
        quantized, scale = experts.quantize_input(hidden_states)
        counts, rows = batch_rows(routing.topk_ids, routing.expert_map, num_local_experts)
        if scale is not None and scale.dim() > 1:
            scale = scatter_rows(scale, rows, num_local_experts)
        batched = scatter_rows(quantized, rows, num_local_experts)
        return PrepareResult(batched, scale, topk_weights, routing, counts, rows)

    def finalize(self, expert_output: torch.Tensor, prepared: PrepareResult) -> torch.Tensor:
        """Each token's rows, weighted and summed."""
        assert prepared.batch_rows is not None
        output: torch.Tensor = combine_rows(
            expert_output, prepared.batch_rows, prepared.topk_weights
        )
        return output
