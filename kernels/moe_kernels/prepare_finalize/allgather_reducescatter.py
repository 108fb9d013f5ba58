"""Every rank gets all tokens, and each token is summed over the ranks on its way back."""

from __future__ import annotations

import torch

from moe_kernels.modular_kernel import Exchange, PrepareResult
from moe_kernels.prepare_finalize.over_ranks import PrepareAndFinalizeOverRanks
from moe_kernels.prepare_finalize.rows import RowLayout, TokenRows


class AllGatherReduceScatter(PrepareAndFinalizeOverRanks):
    """All-gather, then reduce-scatter in the layer's dtype. vLLM's ``allgather_reducescatter``.

    Ranks with fewer tokens than others, or than ``capacity``, send rows without experts besides, so
    that all send as many. Also where ranks have parts of every expert.
    """

    def _dispatch(self, rows: TokenRows) -> tuple[TokenRows, Exchange]:
        most = self.most_tokens(rows)
        layout = RowLayout(rows)
        num_tokens, size, device = len(rows.topk_ids), self.ranks.size, rows.topk_ids.device
        place = torch.arange(most, device=device)
        packed = layout.pack(
            rows, torch.where(place < num_tokens, place, -1), self.moe_config.num_experts
        )
        gathered = packed.new_empty(size * most, layout.row_bytes)
        if most > 0:
            self.ranks.all_gather(gathered, packed)
        exchange = Exchange(num_tokens, [most] * size, [most] * size, layout.row_bytes)
        return layout.unpack(gathered), exchange

    def _combine(self, expert_output: torch.Tensor, prepared: PrepareResult) -> torch.Tensor:
        """The sum over the ranks of each of this rank's tokens."""
        exchange = prepared.exchange
        assert exchange is not None
        output = expert_output.new_empty(exchange.sent[0], expert_output.shape[1])
        if len(output) > 0:
            self.ranks.reduce_scatter(output, expert_output.contiguous())
        return output[: exchange.num_tokens]
