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
    topk_ids: torch.Tensor,
    global_num_experts: int,
    expert_map: torch.Tensor | None,
    num_local_experts: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    counts = topk_ids.new_empty(num_local_experts, dtype=torch.int32)
    return counts, topk_ids.new_empty(topk_ids.shape, dtype=torch.int64)


@register_operator(_fake_batch_rows)
def batch_rows(
    topk_ids: torch.Tensor,
    global_num_experts: int,
    expert_map: torch.Tensor | None,
    num_local_experts: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each (token, expert) pair goes: an expert's tokens in order, from its first row on.

    Returns expert_num_tokens [num_local_experts] int32, and the row of each pair [M, topk] int64,
    counted over [num_local_experts, M]; num_local_experts * M for pairs without a local expert.
    Pairs of one token with one expert have one row.
    """
    num_tokens = topk_ids.shape[0]
    local = Routing(topk_ids, global_num_experts, expert_map).local_experts()
    # Pairs without an expert have an extra one, the last.
    experts = torch.where(local >= 0, local, num_local_experts).T
    chosen = experts.new_zeros(num_local_experts + 1, num_tokens).scatter_(0, experts, 1)
    rank = chosen.cumsum(1) - 1
    rows = torch.where(
        local >= 0, local * num_tokens + rank.gather(0, experts).T, num_local_experts * num_tokens
    )
    return chosen[:-1].sum(1, dtype=torch.int32), rows.contiguous()


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
    if flat.shape[0] == 0:
        return x.new_zeros(rows.shape[0], x.shape[-1])
    if x.is_cuda:
        from moe_kernels.ops.rows import sum_rows

        return sum_rows(flat, rows, None if topk_weights is None else topk_weights.contiguous())
    values = flat[rows.clamp(max=flat.shape[0] - 1)].float()
    if topk_weights is not None:
        values *= topk_weights.float()[..., None]
    # What was read for pairs without an expert is another token's.
    values.masked_fill_((rows >= flat.shape[0])[..., None], 0.0)
    return values.sum(dim=1).to(x.dtype)


class BatchedPrepareAndFinalize(FusedMoEPrepareAndFinalize):
    """Every rank has all tokens, and groups those of its own experts.

    No expert gets more rows than there are tokens, since one that a token names several times
    computes it once: hidden_states become [num_local_experts, M, H]. vLLM's class of this name.
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
        quantized, scale = experts.quantize_input(hidden_states, routing)
        counts, rows = batch_rows(*routing, num_local_experts)
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
