"""Tokens as rows of bytes, which one collective sends: values, scales and routing of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

_ALIGNMENT = 16
"""Bytes that parts of rows are a multiple of: GPUs copy so many at once."""
_ROW_ALIGNMENT = 128
"""Bytes that rows are a multiple of, which is what caches hold together.

Also 16 elements of any dtype: kernels are compiled for strides that 16 divides, and for others.
"""


class TokenRows(NamedTuple):
    """What is sent of every token: [M, columns] each.

    hidden_states as the experts take them, or not yet quantized; scale: of each row, None: there is
    none, or one for all. topk_weights, topk_ids: as given, and once sent float32, and int32, -1
    where there is no expert. needed: int32, what a rank says of itself, alike in all of its rows.
    """

    hidden_states: torch.Tensor
    scale: torch.Tensor | None
    topk_weights: torch.Tensor
    topk_ids: torch.Tensor
    needed: torch.Tensor | None = None


def sent_as(rows: TokenRows) -> tuple[torch.dtype, ...]:
    """The dtypes of the parts, also before these have them."""
    return rows.hidden_states.dtype, torch.float32, torch.float32, torch.int32, torch.int32


class RowLayout:
    """Where the parts of a token lie in its row."""

    def __init__(self, rows: TokenRows) -> None:
        self._parts: list[tuple[int, int, torch.dtype] | None] = []
        offset = 0
        for part, dtype in zip(rows, sent_as(rows), strict=True):
            if part is None:
                self._parts.append(None)
                continue
            size = part.shape[1] * dtype.itemsize
            self._parts.append((offset, offset + size, dtype))
            offset += _aligned(size, _ALIGNMENT)
        self.row_bytes = _aligned(offset, _ROW_ALIGNMENT)

    def __str__(self) -> str:
        parts = []
        for name, part in zip(TokenRows._fields, self._parts, strict=True):
            if part is not None:
                start, stop, dtype = part
                columns = (stop - start) // dtype.itemsize
                parts.append(f"{name} {str(dtype).removeprefix('torch.')} [{columns}]")
        return ", ".join(parts)

    def pack(self, rows: TokenRows, index: torch.Tensor, num_experts: int) -> torch.Tensor:
        """The rows that ``index`` [R] int64 names, -1 for one without experts: [R, row_bytes].

        Ids that name none of ``num_experts`` become -1.
        """
        packed = rows.topk_ids.new_empty(len(index), self.row_bytes, dtype=torch.uint8)
        parts = TokenRows(*self._views(packed))
        if packed.is_cuda:
            from moe_kernels.ops.rank_rows import pack_rows

            pack_rows(index, *rows, num_experts, parts)
            return packed
        if len(rows.topk_ids) == 0:
            packed.zero_()
        else:
            rows = rows._replace(topk_ids=known_ids(rows.topk_ids, num_experts))
            for part, source in zip(parts, rows, strict=True):
                if part is not None and source is not None:
                    _gather(source.to(part.dtype), index, part)
        parts.topk_ids.masked_fill_((index < 0)[:, None], -1)
        return packed

    def unpack(self, packed: torch.Tensor) -> TokenRows:
        """Inverse of :meth:`pack`; hidden_states are a view."""
        views = self._views(packed)
        others: list[Any] = [None if part is None else part.contiguous() for part in views[1:]]
        return TokenRows(views[0], *others)

    def _views(self, packed: torch.Tensor) -> list[Any]:
        """Views of the parts of :class:`TokenRows`; None for one that there is not."""
        return [
            None if part is None else packed[:, part[0] : part[1]].view(part[2])
            for part in self._parts
        ]


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def known_ids(topk_ids: torch.Tensor, num_experts: int) -> torch.Tensor:
    """``topk_ids`` as int32, -1 where they name no expert."""
    known = (topk_ids >= 0) & (topk_ids < num_experts)
    return torch.where(known, topk_ids, -1).to(torch.int32)


def _gather(source: torch.Tensor, index: torch.Tensor, out: torch.Tensor) -> None:
    """Copy the rows ``index`` of ``source`` to ``out``; for -1, any row."""
    if source.dtype.itemsize == 1:
        # Not every device copies rows of FP8; bits are bits.
        source, out = source.view(torch.uint8), out.view(torch.uint8)
    torch.index_select(source, 0, index.clamp(min=0), out=out)
