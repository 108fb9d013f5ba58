"""Each token is written straight into the memory of the ranks that have experts for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch

from moe_kernels.modular_kernel import Exchange, PrepareResult
from moe_kernels.prepare_finalize.all_to_all import first_places
from moe_kernels.prepare_finalize.batched import combine_rows
from moe_kernels.prepare_finalize.over_ranks import PrepareAndFinalizeOverRanks
from moe_kernels.prepare_finalize.rows import TokenRows, known_ids, sent_as
from moe_kernels.ranks.group import Ranks
from moe_kernels.ranks.symmetric_buffer import SymmetricBuffer, symmetric_buffer

_ALIGNMENT = 256
"""Bytes that parts of a buffer are a multiple of."""


class ThroughSymmetricMemory(PrepareAndFinalizeOverRanks):
    """Dispatch and combine by stores to other ranks' memory; parts are summed in order of ranks.

    Ranks have different experts, and are of one host. Every rank has a place for each of
    ``capacity`` tokens of every rank (of as many as one has, where that is None and the ranks say
    so in each call), so that nobody has to know how many come: a place without one names no expert.
    """

    sums_pairs: ClassVar[bool] = True
    _tokens: SymmetricBuffer | None = None
    _sums: SymmetricBuffer | None = None
    _received: tuple[_Layout, SymmetricBuffer, TokenRows] | None = None
    """Where the tokens of the last call lie, and of the next one if it has as many."""

    def __init__(self, ranks: Ranks, *others: Any) -> None:
        super().__init__(ranks, *others)
        hosts = sorted(set(ranks.hosts))
        if len(hosts) > 1:
            raise ValueError(
                f"symmetric_memory is between ranks of one host, but these are on "
                f"{', '.join(hosts)}: use all_to_all_single"
            )

    def _dispatch(self, rows: TokenRows) -> tuple[TokenRows, Exchange]:
        most, num_tokens = self.most_tokens(rows), len(rows.topk_ids)
        size, device = self.ranks.size, rows.topk_ids.device
        layout = _layout(most * size, *_columns(rows))
        self._tokens = buffer = self._at_least(self._tokens, "tokens", layout.num_bytes, device)
        token_rows = rows.topk_ids.new_empty(num_tokens, size, dtype=torch.int64)
        self.ranks.put(
            lambda: self._write_tokens(rows, layout, buffer, most, token_rows), buffer.wait_for_all
        )
        counts = [most] * size
        places = first_places(token_rows, rows.topk_ids.shape[1])
        exchange = Exchange(num_tokens, counts, counts, layout.row_bytes, places)
        if self._received is None or self._received[:2] != (layout, buffer):
            views = layout.views(buffer.parts[self.ranks.rank])
            self._received = layout, buffer, views
        return self._received[2], exchange

    def _write_tokens(
        self,
        rows: TokenRows,
        layout: _Layout,
        buffer: SymmetricBuffer,
        most: int,
        token_rows: torch.Tensor,
    ) -> None:
        """As :func:`moe_kernels.ops.symmetric_rows.send_tokens`."""
        rank, size = self.ranks.rank, self.ranks.size
        owners = self.owners(rows.topk_ids.device)
        hidden_states, scale, topk_weights, topk_ids, _ = rows
        if topk_ids.is_cuda:
            from moe_kernels.ops.symmetric_rows import send_tokens

            send_tokens(
                hidden_states if hidden_states.stride(1) == 1 else hidden_states.contiguous(),
                scale,
                topk_weights.contiguous(),
                topk_ids.contiguous(),
                owners,
                buffer.addresses,
                token_rows,
                layout.offsets[1:4],
                most,
                rank,
            )
            return
        ids = known_ids(topk_ids, len(owners))
        owner = torch.where(ids >= 0, owners[ids.clamp(min=0)], -1)
        place = torch.arange(len(topk_ids), device=topk_ids.device)
        for other, part in enumerate(buffer.parts):
            here = owner == other
            goes = here.any(1)
            token_rows[:, other] = torch.where(goes, other * most + place, size * most)
            sent = rows._replace(topk_ids=ids.masked_fill(~here, -1))
            theirs = layout.views(part)
            theirs.topk_ids[rank * most : (rank + 1) * most] = -1
            for source, target in zip(sent, theirs, strict=True):
                if source is not None and target is not None:
                    values = source.to(target.dtype)
                    _bits(target)[rank * most + place[goes]] = _bits(values)[goes]

    def _combine(self, expert_output: torch.Tensor, prepared: PrepareResult) -> torch.Tensor:
        """The sum of each token's parts, in float32 and in the order of ranks."""
        exchange = prepared.exchange
        assert exchange is not None
        assert exchange.token_rows is not None
        most, width = exchange.sent[0], expert_output.shape[1]
        shape = most * self.ranks.size, width
        num_bytes = math.prod(shape) * expert_output.element_size()
        self._sums = buffer = self._at_least(self._sums, "sums", num_bytes, expert_output.device)
        self.ranks.put(
            lambda: self._write_sums(expert_output, prepared, buffer, most), buffer.wait_for_all
        )
        own = buffer.parts[self.ranks.rank]
        returned = own[:num_bytes].view(expert_output.dtype).view(shape)
        output: torch.Tensor = combine_rows(returned, exchange.token_rows, None)
        return output

    def _write_sums(
        self, x: torch.Tensor, prepared: PrepareResult, buffer: SymmetricBuffer, most: int
    ) -> None:
        rank, ids = self.ranks.rank, prepared.routing.topk_ids
        if x.is_cuda:
            from moe_kernels.ops.symmetric_rows import send_sums

            assert prepared.topk_weights is not None
            x = x.contiguous()
            send_sums(x, prepared.topk_weights, ids, buffer.addresses, most, rank)
            return
        goes = (ids >= 0).any(1)
        for other, part in enumerate(buffer.parts):
            theirs = part[: x.nbytes].view(x.dtype).view(x.shape)
            (sent,) = goes[other * most : (other + 1) * most].nonzero(as_tuple=True)
            theirs[rank * most + sent] = x[other * most + sent]

    def rows_moved(self, exchange: Exchange) -> tuple[list[int], list[int]]:
        """Those that hold a token with an expert where they went; waits for all, on the host."""
        rows, size = exchange.token_rows, self.ranks.size
        assert rows is not None
        most = max(1, exchange.sent[0])
        sent = torch.bincount((rows // most).flatten(), minlength=size + 1)[:size].tolist()
        of_ranks = self.ranks.gather(sent, rows.device)
        return sent, [int(from_rank[self.ranks.rank]) for from_rank in of_ranks]

    def _at_least(
        self, buffer: SymmetricBuffer | None, name: str, num_bytes: int, device: torch.device
    ) -> SymmetricBuffer:
        """``buffer``, which graphs hold on to, as long as it is large enough."""
        if buffer is not None and buffer.num_bytes >= num_bytes and buffer.device == device:
            return buffer
        return symmetric_buffer(self.ranks, name, num_bytes, device)


class _Layout(NamedTuple):
    """Where the parts of ``num_rows`` tokens lie in a buffer, one after the other."""

    num_rows: int
    columns: tuple[tuple[int, torch.dtype] | None, ...]
    offsets: tuple[int, ...]
    num_bytes: int
    row_bytes: int

    def views(self, memory: torch.Tensor) -> TokenRows:
        """The parts in a buffer: [num_rows, columns] each."""
        found: list[Any] = []
        for part, offset in zip(self.columns, self.offsets, strict=True):
            if part is None:
                found.append(None)
                continue
            columns, dtype = part
            size = self.num_rows * columns * dtype.itemsize
            found.append(memory[offset : offset + size].view(dtype).view(self.num_rows, columns))
        return TokenRows(*found)


def _columns(rows: TokenRows) -> Iterator[tuple[int, torch.dtype] | None]:
    """How many columns of what dtype are sent of each part."""
    for part, dtype in zip(rows, sent_as(rows), strict=True):
        yield None if part is None else (part.shape[1], dtype)


@functools.lru_cache(maxsize=64)
def _layout(num_rows: int, *columns: tuple[int, torch.dtype] | None) -> _Layout:
    widths = [0 if part is None else part[0] * part[1].itemsize for part in columns]
    ends = [0]
    for width in widths:
        ends.append(ends[-1] + -(-num_rows * width // _ALIGNMENT) * _ALIGNMENT)
    return _Layout(num_rows, columns, tuple(ends[:-1]), max(_ALIGNMENT, ends[-1]), sum(widths))


def _bits(x: torch.Tensor) -> torch.Tensor:
    """Not every device copies rows of FP8; bits are bits."""
    return x.view(torch.uint8) if x.dtype.itemsize == 1 else x
