"""Each token goes once to every rank that has experts for it, and one part returns from each."""

from __future__ import annotations

import torch

from moe_kernels.modular_kernel import Exchange, PrepareResult
from moe_kernels.prepare_finalize.batched import combine_rows
from moe_kernels.prepare_finalize.over_ranks import PrepareAndFinalizeOverRanks
from moe_kernels.prepare_finalize.rows import RowLayout, TokenRows


class AllToAll(PrepareAndFinalizeOverRanks):
    """Dispatch and combine by ``all_to_all_single``; parts are summed in the order of ranks.

    Ranks have different experts. The host waits once in each call, for the numbers of rows.
    """

    def _dispatch(self, rows: TokenRows) -> tuple[TokenRows, Exchange]:
        rows = self.normalized(rows)
        layout = RowLayout(rows)
        goes = self.destinations(rows.topk_ids)
        counts = goes.sum(0)
        told = self.ranks.begin_call({"a token's row": str(layout)}, counts)
        # Packed before the host knows how many rows there are: room for as many as there can be.
        most = len(goes) * min(goes.shape[1], rows.topk_ids.shape[1])
        places = torch.where(goes, goes.cumsum(0) - 1 + (counts.cumsum(0) - counts), most)
        packed = layout.pack(rows, source_tokens(places, most))
        sent, received = told()
        arrived = packed.new_empty(sum(received), layout.row_bytes)
        self.ranks.all_to_all(arrived, packed[: sum(sent)], received, sent)
        token_rows = first_places(places, rows.topk_ids.shape[1])
        exchange = Exchange(len(goes), sent, received, layout.row_bytes, token_rows)
        return layout.unpack(arrived), exchange

    def destinations(self, topk_ids: torch.Tensor) -> torch.Tensor:
        """[M, ranks] bool: whether a rank has experts for a token."""
        size, device = self.ranks.size, topk_ids.device
        owner = torch.where(topk_ids >= 0, self.owners(device).long()[topk_ids.clamp(min=0)], size)
        goes = torch.zeros(len(topk_ids), size + 1, dtype=torch.bool, device=device)
        return goes.scatter_(1, owner, True)[:, :size]

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


def source_tokens(places: torch.Tensor, num_rows: int) -> torch.Tensor:
    """The token of each row that is sent, [num_rows] int64; -1 for none.

    ``places`` [M, ranks] int64: the row of each token and rank; ``num_rows`` for none.
    """
    num_tokens, size = places.shape
    tokens = torch.arange(num_tokens, device=places.device).repeat_interleave(size)
    source = torch.full((num_rows + 1,), -1, dtype=torch.int64, device=places.device)
    return source.scatter_(0, places.flatten(), tokens)[:num_rows]


def first_places(places: torch.Tensor, top_k: int) -> torch.Tensor:
    """Of ``places`` [M, ranks], in the order of ranks, those that there can be: [M, <= top_k]."""
    if places.shape[1] <= top_k:
        return places
    return places.sort(1).values[:, :top_k].contiguous()
