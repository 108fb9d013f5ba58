"""The exchange of :mod:`moe_kernels.prepare_finalize.all_to_all` that never waits on the host."""

from __future__ import annotations

import torch

from moe_kernels.modular_kernel import Exchange, PrepareResult
from moe_kernels.prepare_finalize.all_to_all import AllToAll, first_places
from moe_kernels.prepare_finalize.rows import RowLayout, TokenRows

# torch.cuda.Event is not annotated.
# mypy: allow-untyped-calls


class CapacityError(RuntimeError):
    """Tokens of a rank had experts on another one beyond the capacity."""


class AllToAllFixedCapacity(AllToAll):
    """Every rank sends ``capacity`` rows to every rank, some of them without experts.

    For CUDA graphs, captured after one call. With the most tokens that a rank has as capacity,
    nothing can overflow. Where it does, tokens that were not sent to all of their experts return as
    NaN, every rank is told, and its next call raises CapacityError. Replays of a graph call
    nothing: after them ask :meth:`raise_if_overflowed`.
    """

    _needed: torch.Tensor | None = None
    """[ranks] int32: the most rows that each rank had for another one."""
    _seen: torch.Tensor | None = None
    """The same on the host, as of the last call that was not captured."""
    _copied: torch.cuda.Event | None = None
    """When that is there."""

    def _dispatch(self, rows: TokenRows) -> tuple[TokenRows, Exchange]:
        capacity, size = self.capacity, self.ranks.size
        assert capacity is not None
        if self._copied is None or (not _is_captured() and bool(self._copied.query())):
            self._raise(self._seen)
        num_tokens, top_k = rows.topk_ids.shape
        found = self.places(rows.topk_ids)
        needed = found.counts.amax().to(torch.int32)
        rows = rows._replace(needed=needed.expand(max(1, num_tokens), 1))
        layout = RowLayout(rows)
        packed = layout.pack(rows, found.source, self.moe_config.num_experts)
        arrived = torch.empty_like(packed)
        self.ranks.all_to_all(arrived, packed)
        received = layout.unpack(arrived)
        assert received.needed is not None
        self._note(received.needed.view(size, capacity)[:, 0])
        counts = [capacity] * size
        token_rows = first_places(found.rows, top_k)
        sizes = num_tokens, counts, counts, layout.row_bytes
        exchange = Exchange(*sizes, token_rows, found.lost)
        return received, exchange

    def _combine(self, expert_output: torch.Tensor, prepared: PrepareResult) -> torch.Tensor:
        """The sum of each token's parts, in float32 and in the order of ranks; NaN without one."""
        exchange = prepared.exchange
        assert exchange is not None
        assert exchange.lost is not None
        output = super()._combine(expert_output, prepared)
        return output.masked_fill_(exchange.lost[:, None], torch.nan)

    def raise_if_overflowed(self) -> None:
        """Raise CapacityError if a call overflowed since that was last raised; waits for it."""
        self._raise(self._needed if self._needed is None else self._needed.cpu())

    def _note(self, needed: torch.Tensor) -> None:
        """Keep the most, and begin to copy it to the host."""
        if self._needed is None:
            self._needed = torch.zeros_like(needed)
        torch.maximum(self._needed, needed, out=self._needed)
        if self._needed.device.type == "cpu":
            self._seen = self._needed
        elif not _is_captured():
            if self._seen is None:
                self._seen = torch.zeros_like(needed, device="cpu", pin_memory=True)
            self._seen.copy_(self._needed, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def _raise(self, needed: torch.Tensor | None) -> None:
        """Raise CapacityError where ``needed`` is beyond the capacity, and begin to count anew."""
        assert self.capacity is not None
        if needed is None or self._needed is None or int(needed.max()) <= self.capacity:
            return
        counts = zip(self.ranks.numbers, needed.tolist(), strict=True)
        beyond = [f"rank {rank} had {n}" for rank, n in counts if n > self.capacity]
        needed.zero_()
        self._needed.zero_()
        raise CapacityError(
            f"a capacity of {self.capacity} tokens from one rank to another overflowed: "
            f"{', '.join(beyond)} for one rank; outputs of tokens that did not fit are NaN"
        )


def _is_captured() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
