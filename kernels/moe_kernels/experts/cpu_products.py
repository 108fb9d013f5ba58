"""Products of tokens with one expert's weights on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812

from moe_kernels.quantization.fp8 import scale_in_place, widen_e4m3
from moe_kernels.quantization.schemes import QuantizedWeight, dequantize_format

_BLOCK_ELEMENTS = 1 << 19
"""Weights per thread that are converted at a time: as float32 2 MiB, which caches hold."""

_FEW_TOKENS = 8
"""For so few tokens, what is done once per weight takes the time: converting and packing them."""


@dataclass(frozen=True, eq=False)
class ExpertLinear:
    """The weights of one GEMM, [E, N, K]: for each expert a linear layer.

    ``weight_format``: None for unquantized weights, else one of
    :mod:`moe_kernels.quantization.schemes` with scales of ``group_shape``, which are dequantized
    to ``compute_dtype``.

    Weights that the CPU does not multiply as they are become so in blocks of rows that stay in
    its cache: from memory they are read once, in their own format. ``packed``: unquantized
    weights as :func:`pack` gives them, used instead of ``values``.
    """

    values: torch.Tensor
    scale: torch.Tensor | None
    zero_point: torch.Tensor | None
    bias: torch.Tensor | None
    weight_format: str | None
    group_shape: tuple[int, int]
    compute_dtype: torch.dtype
    packed: list[torch.Tensor] | None = None
    _buffers: dict[torch.dtype, torch.Tensor] = field(default_factory=dict, init=False)
    """For converted weights: fresh memory for every block would cost more than the conversion."""

    def apply(self, x: torch.Tensor, expert: int, out: torch.Tensor) -> None:
        """Set ``out`` [m, N] to ``x @ weight[expert].T + bias[expert]``; x: [m, K], m > 0."""
        w, dtype = self.values[expert], self.compute_dtype
        as_they_are, few = self.weight_format is None, len(x) <= _FEW_TOKENS
        if as_they_are and not few and not _multiplies(dtype):
            as_they_are, dtype = False, torch.float32
        elif few and not as_they_are:
            dtype = torch.float32
        bias = None if self.bias is None else self.bias[expert].to(dtype)
        if self.packed is not None:
            product = torch.ops.mkldnn._linear_pointwise
            out.copy_(product(x, self.packed[expert], bias, "none", [], ""))
        elif as_they_are:
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
        group = max(1, self.group_shape[0])
        fitting = _BLOCK_ELEMENTS * torch.get_num_threads() // max(1, w.shape[1])
        step = max(1, fitting // group) * group
        for start in range(0, w.shape[0], step):
            yield slice(start, min(start + step, w.shape[0]))

    def _converted(self, expert: int, rows: slice, dtype: torch.dtype) -> torch.Tensor:
        """Rows of one expert's weights as ``dtype``."""
        values, scale = self.values[expert, rows], self._of_rows(self.scale, expert, rows)
        if self.weight_format is None or scale is None:
            return self._buffer(values, dtype).copy_(values)
        if self.weight_format == "fp8":
            wide = widen_e4m3(values, out=self._buffer(values, torch.float32))
            scale_in_place(wide, scale * 2.0**120, self.group_shape)
            return wide if dtype == wide.dtype else self._buffer(values, dtype).copy_(wide)
        packed = QuantizedWeight(values, scale, self._of_rows(self.zero_point, expert, rows))
        return dequantize_format(packed, self.weight_format, self.group_shape, dtype)

    def _buffer(self, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Memory in the shape of ``like``, the same for every block."""
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.numel() < like.numel():
            buffer = self._buffers[dtype] = torch.empty(like.numel(), dtype=dtype)
        return buffer[: like.numel()].view(like.shape)

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


_PACKED_FOR_TOKENS = 16
"""The tokens per expert that oneDNN is asked to choose a layout for; any number is multiplied."""


def pack(weights: torch.Tensor) -> list[torch.Tensor]:
    """Each expert's ``weights`` [E, N, K] in the layout of oneDNN, opaque to others.

    A product of a plain matrix packs it each time, which for few tokens takes as long as the
    product. Raises ValueError for a dtype that oneDNN does not multiply on this CPU.
    """
    supported = torch._C._has_mkldnn and (
        weights.dtype == torch.float32
        or (weights.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        or (weights.dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported())
    )
    if not supported:
        raise ValueError(f"oneDNN does not multiply {weights.dtype} on this CPU")
    reorder = torch.ops.mkldnn._reorder_linear_weight
    return [reorder(w.detach().contiguous(), _PACKED_FOR_TOKENS) for w in weights]
