"""Products of tokens with one expert's weights on a CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812

from moe_kernels.cpu import onednn
from moe_kernels.cpu.compiled import Segment, StoredWeights, stored
from moe_kernels.cpu.packed_weights import PackedInt8, PackedProduct, Tokens
from moe_kernels.quantization.fp8 import scale_in_place, widen_e4m3
from moe_kernels.quantization.microscaling import MX_GROUP, decode_e8m0
from moe_kernels.quantization.minifloat import E2M1, decode
from moe_kernels.quantization.packing import unpack_nibbles
from moe_kernels.quantization.schemes import (
    QuantizedWeight,
    dequantize_format,
    fake_quantize,
    quantize_int8,
)

_BLOCK_ELEMENTS = 1 << 19
"""Weights per thread that are converted at a time: as float32 2 MiB, which caches hold."""

_FEW_WHOLE = 8
"""For so few tokens of an expert, compiled products beat torch's of weights as they are."""

_FEW_CONVERTED = 24
"""The same against products of weights that are converted to the tokens' dtype."""

_FEW_WIDENED = 64
"""The same against products of weights and tokens that are converted to float32."""

_FEW_TILED = 4
"""The same against compiled products of weights that are rounded for the CPU's matrix units."""

_SOME_WHOLE, _SOME_CONVERTED = 64, 256
"""For so many tokens of an expert these beat torch's, of weights as they are or converted."""

_FEW_ROUNDED = 1
"""For so few tokens, rounding converted weights to 16 bits takes longer than it saves."""

_FEW_SLOW = 6
"""For so few tokens, converting 16-bit weights to float32 takes longer than slow products."""


@dataclass(frozen=True, eq=False)
class ExpertLinear:
    """The weights of one GEMM, [E, N, K]: for each expert a linear layer.

    ``weight_format``, ``activation_format``: None for what is not quantized, else a format of
    :mod:`moe_kernels.quantization.schemes` with scales of the group shape beside it.

    A few tokens of an expert are multiplied by weights that become numbers on their way from memory
    (:mod:`moe_kernels.cpu.compiled`). For more, weights that the CPU does not multiply as they are
    become such, or float32, in blocks of rows that stay in its cache: from memory they are read
    once, in their own format. ``packed``: used instead of ``values``, which then only stand for it.
    """

    values: torch.Tensor
    scale: torch.Tensor | None
    zero_point: torch.Tensor | None
    bias: torch.Tensor | None
    weight_format: str | None
    weight_groups: tuple[int, int]
    activation_format: str | None
    activation_groups: tuple[int, int]
    packed: PackedProduct | None = None
    _buffers: dict[torch.dtype, torch.Tensor] = field(default_factory=dict, init=False)
    """For converted weights: fresh memory for every block would cost more than the conversion."""

    def tokens(self, x: torch.Tensor) -> Tokens:
        """``x`` [M, K] in the layer's dtype, quantized as :meth:`apply` takes it."""
        if self.activation_format is None:
            return Tokens(x)
        if isinstance(self.packed, PackedInt8):
            stored, scale = quantize_int8(x, self.activation_groups)
            # Flipping the sign adds 128.
            return Tokens(stored.view(torch.uint8) ^ 0x80, scale.expand(len(x), 1))
        # bf16 does not hold a scaled value.
        wide = fake_quantize(x, self.activation_format, self.activation_groups, dtype=torch.float32)
        return Tokens(wide)

    def apply(self, tokens: Tokens, segments: Sequence[Segment], out: torch.Tensor) -> None:
        """Set ``out`` [P, N] to ``tokens @ weight[expert].T + bias[expert]``.

        ``segments``: the experts of all tokens, in order.
        """
        exact, rounded = self._compiled_for(tokens.values.dtype)
        few, some = [], []
        for segment in segments:
            expert, start, stop = segment
            if stop - start <= exact:
                few.append(segment)
            elif stop - start <= rounded:
                some.append(segment)
            else:
                self._multiply(tokens.rows(slice(start, stop)), expert, out[start:stop])
        if self._stored is not None and (few or some):
            self._multiply_compiled(self._stored, tokens.values, few, some, out)

    def _compiled_for(self, dtype: torch.dtype) -> tuple[int, int]:
        """The most tokens of an expert, in ``dtype``, that compiled products are fastest for.

        Those of weights as they are, and those of weights rounded to bf16.
        """
        if self._stored is None:
            return 0, 0
        if self._stored.rounds(dtype):
            # There is nothing to round in bf16.
            exact = 0 if self._stored.values.dtype == dtype else _FEW_TILED
            whole = self.packed is not None or self.weight_format is None
            return exact, _SOME_WHOLE if whole else _SOME_CONVERTED
        if self.packed is not None or (self.weight_format is None and _fast(dtype)):
            return _FEW_WHOLE, 0
        return _FEW_CONVERTED if _fast(dtype) else _FEW_WIDENED, 0

    @functools.cached_property
    def _stored(self) -> StoredWeights | None:
        """``values`` and what belongs to them, where products of such are compiled."""
        if self.packed is not None:
            return self.packed.stored
        scales = self.scale, self.zero_point
        return stored(self.values, self.weight_format, *scales, self.weight_groups)

    def _multiply_compiled(
        self,
        weights: StoredWeights,
        x: torch.Tensor,
        few: Sequence[Segment],
        some: Sequence[Segment],
        out: torch.Tensor,
    ) -> None:
        """:meth:`apply` for segments that may be some of all; ``some`` by rounded weights."""
        product = out.new_empty(out.shape, dtype=torch.float32)
        if few:
            weights.multiply(x, few, product)
        if some:
            weights.multiply_rounded(x, some, product)
        segments = [*few, *some]
        if self.bias is not None:
            for expert, start, stop in segments:
                product[start:stop] += self.bias[expert]
        if sum(stop - start for _, start, stop in segments) == len(x):
            out.copy_(product)
        else:
            for _, start, stop in segments:
                out[start:stop] = product[start:stop]

    def _multiply(self, tokens: Tokens, expert: int, out: torch.Tensor) -> None:
        """:meth:`apply` for one expert, by torch's products: ``out`` [m, N], m > 0."""
        bias = None if self.bias is None else self.bias[expert]
        if self.packed is not None:
            out.copy_(self.packed.apply(tokens, expert, bias))
            return
        x, w = tokens.values, self.values[expert]
        fast = _fast(x.dtype)
        as_they_are = self.weight_format is None and (fast or len(x) <= _FEW_SLOW)
        dtype = x.dtype if as_they_are or (fast and len(x) > _FEW_ROUNDED) else torch.float32
        bias = None if bias is None else bias.to(dtype)
        if as_they_are:
            if bias is None:
                torch.mm(x, w.t(), out=out)
            else:
                torch.addmm(bias, x, w.t(), out=out)
        else:
            x = x.to(dtype)
            for rows in self._blocks(w):
                part = None if bias is None else bias[rows]
                out[:, rows] = F.linear(x, self._converted(expert, rows, dtype), part)

    def _blocks(self, w: torch.Tensor) -> Iterator[slice]:
        """Rows of ``w`` in blocks that fit the cache and hold whole groups of scales."""
        group = max(1, self.weight_groups[0])
        fitting = _BLOCK_ELEMENTS * torch.get_num_threads() // max(1, w.shape[1])
        step = max(1, fitting // group) * group
        for start in range(0, w.shape[0], step):
            yield slice(start, min(start + step, w.shape[0]))

    def _converted(self, expert: int, rows: slice, dtype: torch.dtype) -> torch.Tensor:
        """Rows of one expert's weights as ``dtype``."""
        values, scale = self.values[expert, rows], self._of_rows(self.scale, expert, rows)
        fmt = self.weight_format
        if self._stored is not None:
            out = self._buffer((len(values), self._stored.columns), dtype)
            self._stored.convert(expert, rows, out)
            return out
        if fmt is None or scale is None:
            return self._buffer(values.shape, dtype).copy_(values)
        zero_point = self._of_rows(self.zero_point, expert, rows)
        if fmt == "fp8":
            wide = widen_e4m3(values, out=self._buffer(values.shape, torch.float32))
            scale_in_place(wide, scale * 2.0**120, self.weight_groups)
        elif fmt in _NIBBLES and _whole_groups(fmt, 2 * values.shape[1], scale.shape[1]):
            wide = self._widened_nibbles(values)
            groups = wide.view(*scale.shape, -1)
            if fmt == "int4":
                groups.sub_(8 if zero_point is None else zero_point[..., None])
            groups.mul_((decode_e8m0(scale) if fmt == "mxfp4" else scale.float())[..., None])
        else:
            weight = QuantizedWeight(values, scale, zero_point)
            return dequantize_format(weight, fmt, self.weight_groups, dtype)
        return wide if dtype == wide.dtype else self._buffer(wide.shape, dtype).copy_(wide)

    def _widened_nibbles(self, values: torch.Tensor) -> torch.Tensor:
        """The elements of ``values`` [r, K / 2] as float32 [r, K], without scale or zero point.

        Looked up by the byte, two at a time: torch's index_select is its one fast look-up.
        """
        wide = self._buffer((values.shape[0], 2 * values.shape[1]), torch.float32)
        index = self._buffer(values.shape, torch.int32).copy_(values)
        pairs = wide.view(-1).view(torch.int64)
        torch.index_select(_pairs(str(self.weight_format)), 0, index.view(-1), out=pairs)
        return wide

    def _buffer(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Memory of ``shape``, the same for every block."""
        size, buffer = math.prod(shape), self._buffers.get(dtype)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[dtype] = torch.empty(size, dtype=dtype, device="cpu")
        return buffer[:size].view(shape)

    def _of_rows(self, scale: torch.Tensor | None, expert: int, rows: slice) -> torch.Tensor | None:
        """The part of scales or zero points for a block of rows; those per tensor are one."""
        if scale is None or scale.dim() < 3:
            return None if scale is None else scale[expert]
        group = max(1, self.weight_groups[0])
        return scale[expert, rows.start // group : -(-rows.stop // group)]


def _fast(dtype: torch.dtype) -> bool:
    """Whether torch multiplies ``dtype`` fast."""
    return dtype == torch.float32 or onednn.multiplies(dtype)


_NIBBLES = ("int4", "mxfp4")


def _whole_groups(fmt: str, columns: int, groups: int) -> bool:
    """Whether the groups of a format in _NIBBLES have the same length: MX's last may be shorter."""
    return columns == groups * MX_GROUP if fmt == "mxfp4" else columns % groups == 0


@functools.cache
def _pairs(fmt: str) -> torch.Tensor:
    """The two float32 elements of every byte of a format in _NIBBLES, as int64 [256]."""
    codes = unpack_nibbles(torch.arange(256, dtype=torch.uint8, device="cpu")[:, None])
    elements = decode(codes, E2M1) if fmt == "mxfp4" else codes.float()
    return elements.contiguous().view(torch.int64).flatten()
