"""Products of tokens with one expert's weights on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from moe_kernels.quantization.fp8 import dequantize, widen_e4m3
from moe_kernels.quantization.schemes import QuantizedWeight, dequantize_format

_BLOCK_ELEMENTS = 1 << 17
"""Weights per thread that are converted at a time: as float32 half of a 1 MiB L2 cache."""

_FEW_TOKENS = 4
"""A CPU without fp16 arithmetic reads weights for so few tokens faster than it converts them."""


@dataclass(frozen=True, eq=False)
class ExpertLinear:
    """The weights of one GEMM, [E, N, K]: for each expert a linear layer.

    ``weight_format``: None for unquantized weights, else one of
    :mod:`moe_kernels.quantization.schemes` with scales of ``group_shape``, which are dequantized
    to ``compute_dtype``.

    Weights that the CPU does not multiply as they are become so in blocks of rows that stay in
    its cache: from memory they are read once, in their own format.
    """

    values: torch.Tensor
    scale: torch.Tensor | None
    zero_point: torch.Tensor | None
    bias: torch.Tensor | None
    weight_format: str | None
    group_shape: tuple[int, int]
    compute_dtype: torch.dtype

    def apply(self, x: torch.Tensor, expert: int, out: torch.Tensor) -> None:
        """Set ``out`` [m, N] to ``x @ weight[expert].T + bias[expert]``; x: [m, K], m > 0."""
        w, dtype = self.values[expert], self.compute_dtype
        as_they_are = self.weight_format is None
        if as_they_are and len(x) > _FEW_TOKENS and not _multiplies(dtype):
            as_they_are, dtype = False, torch.float32
        bias = None if self.bias is None else self.bias[expert].to(dtype)
        if as_they_are:
            if bias is None:
                torch.mm(x, w.t(), out=out)
            else:
                torch.addmm(bias, x, w.t(), out=out)
            return
        x = x.to(dtype)
        for rows in self._blocks(w):
            part = None if bias is None else bias[rows]
            out[:, rows] = F.linear(x, self._converted(expert, rows, dtype), part)

    def _blocks(self, w: torch.Tensor) -> Iterator[slice]:
        """Rows of ``w`` in blocks that fit the cache and hold whole groups of scales."""
        group = max(1, self.group_shape[0])
        fitting = _BLOCK_ELEMENTS * torch.get_num_threads() // max(1, w.shape[1])
        step = max(1, fitting // group) * group
        for start in range(0, w.shape[0], step):
            yield slice(start, min(start + step, w.shape[0]))

    def _converted(self, expert: int, rows: slice, dtype: torch.dtype) -> torch.Tensor:
        """Rows of one expert's weights as ``dtype``."""
        values = self.values[expert, rows]
        scale = self._of_rows(self.scale, expert, rows)
        if self.weight_format is None or scale is None:
            return values.to(dtype)
        if self.weight_format == "fp8":
            values = widen_e4m3(values.contiguous())
            return dequantize(values, scale * 2.0**120, self.group_shape, dtype)
        packed = QuantizedWeight(values, scale, self._of_rows(self.zero_point, expert, rows))
        return dequantize_format(packed, self.weight_format, self.group_shape, dtype)

    def _of_rows(self, scale: torch.Tensor | None, expert: int, rows: slice) -> torch.Tensor | None:
        """The part of scales or zero points for a block of rows; those per tensor are one."""
        if scale is None or scale.dim() < 3:
            return None if scale is None else scale[expert]
        group = max(1, self.group_shape[0])
        return scale[expert, rows.start // group : -(-rows.stop // group)]


def _multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has fast products of ``dtype``.

    Without AMX-FP16 or AVX512-FP16, torch multiplies fp16 at a fraction of float32's rate.
    """
    return dtype != torch.float16 or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
