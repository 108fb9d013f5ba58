"""Each token goes once to every rank that has experts for it, and one part returns from each."""

from __future__ import annotations

from typing import NamedTuple

import torch

from moe_kernels.modular_kernel import Exchange, PrepareResult
from moe_kernels.prepare_finalize.batched import combine_rows
from moe_kernels.prepare_finalize.over_ranks import PrepareAndFinalizeOverRanks
from moe_kernels.prepare_finalize.rows import RowLayout, TokenRows, known_ids


class Places(NamedTuple):
    """Which of the rows that are sent hold which tokens.

    rows: [M, ranks] int64, the row of each token for each rank, or the number of rows for none.
    source: [num_rows] int64, the token of each row, or -1. counts: [ranks] int64, how many tokens
    have experts on each. lost: [M] bool, whether a token has no row where it needs one; None: none.
    """

    rows: torch.Tensor
    source: torch.Tensor
    counts: torch.Tensor
    lost: torch.Tensor | None


class AllToAll(PrepareAndFinalizeOverRanks):
    """Dispatch and combine by ``all_to_all_single``; parts are summed in the order of ranks.

    Ranks have different experts. The host waits once in each call, for the numbers of rows.
    """

    def _dispatch(self, rows: TokenRows) -> tuple[TokenRows, Exchange]:
        layout = RowLayout(rows)
        found = self.places(rows.topk_ids)
        told = self.ranks.begin_call({"a token's row": str(layout)}, found.counts)
        # Packed before the host knows how many rows there are: room for as many as there can be.
        packed = layout.pack(rows, found.source, self.moe_config.num_experts)
        sent, received = told()
        arrived = packed.new_empty(sum(received), layout.row_bytes)
        self.ranks.all_to_all(arrived, packed[: sum(sent)], received, sent)
        num_tokens, top_k = rows.topk_ids.shape
        token_rows = first_places(found.rows, top_k)
        exchange = Exchange(num_tokens, sent, received, layout.row_bytes, token_rows)
        return layout.unpack(arrived), exchange

    def places(self, topk_ids: torch.Tensor) -> Places:
        """Where each token goes, within the capacity if there is one."""
        arguments = topk_ids, self.owners(topk_ids.device), self.ranks.size, self.capacity
        if topk_ids.is_cuda:
            from moe_kernels.ops.rank_rows import rank_rows

            return Places(*rank_rows(*arguments))
        return places_of(*arguments)

    def _combine(self, expert_output: torch.Tensor, prepared: PrepareResult) -> torch.Tensor:
        """The sum of each token's parts, in float32 and in the order of ranks."""
        exchange = prepared.exchange
        assert exchange is not None
        assert exchange.token_rows is not None
        returned = expert_output.new_empty(sum(exchange.sent), expert_output.shape[1])
        self.ranks.all_to_all(
            returned, expert_output.contiguous(), exchange.sent, exchange.received
        )
        output: torch.Tensor = combine_rows(returned, exchange.token_rows, None)
        return output


def places_of(
    topk_ids: torch.Tensor, owners: torch.Tensor, num_ranks: int, capacity: int | None
) -> Places:
    """Rows for ranks that have experts for tokens, in the order of ranks and of tokens.

    ``topk_ids`` [M, topk], any ids. ``owners`` [num_experts] int32: the rank of each expert, or
    ``num_ranks``. ``capacity``: each rank has so many rows, and what is beyond them is lost; None:
    as many as it needs.
    """
    (num_tokens, top_k), device = topk_ids.shape, topk_ids.device
    ids = known_ids(topk_ids, len(owners))
    owner = torch.where(ids >= 0, owners[ids.clamp(min=0)].long(), num_ranks)
    goes = torch.zeros(num_tokens, num_ranks + 1, dtype=torch.bool, device=device)
    goes = goes.scatter_(1, owner, True)[:, :num_ranks]
    counts, place = goes.sum(0), goes.cumsum(0) - 1
    if capacity is None:
        num_rows, first, fits = num_tokens * min(num_ranks, top_k), counts.cumsum(0) - counts, goes
    else:
        num_rows, first = num_ranks * capacity, torch.arange(num_ranks, device=device) * capacity
        fits = goes & (place < capacity)
    rows = torch.where(fits, place + first, num_rows)
    tokens = torch.arange(num_tokens, device=device).repeat_interleave(num_ranks)
    source = torch.full((num_rows + 1,), -1, dtype=torch.int64, device=device)
    source = source.scatter_(0, rows.flatten(), tokens)[:num_rows]
    return Places(rows, source, counts, None if capacity is None else (goes & ~fits).any(1))


def first_places(places: torch.Tensor, top_k: int) -> torch.Tensor:
    """Of ``places`` [M, ranks], in the order of ranks, those that there can be: [M, <= top_k]."""
    if places.shape[1] <= top_k:
        return places
    return places.sort(1).values[:, :top_k].contiguous()
