"""Products with stored weights that are compiled for this CPU when they are first needed.

Weights become numbers in registers, on their way from memory to the product, so they are read once
and in their own format. llvmlite compiles; without it, and for sizes that are not whole steps,
there is :mod:`moe_kernels.experts.cpu_products`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moe_kernels.cpu import onednn
from moe_kernels.cpu.llvm import STEP, TILE, Kind
from moe_rules.vocabulary.quant_keys import CHANNEL, TENSOR, TOKEN

Segment = tuple[int, int, int]
"""An expert, and the range of its tokens."""

_FORMATS = {
    "fp8": torch.float8_e4m3fn,
    "int8": torch.int8,
    "int4": torch.uint8,
    "mxfp4": torch.uint8,
}
"""What weights are stored as, by format."""

_LONGEST = 1 << 15
"""The most columns of rows that become bf16 in cache, TILE of them at a time."""

_NIBBLES = ("int4", "mxfp4")
_FLOATS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_E8M0 = {torch.uint8: "e8m0"}
_ZERO_POINTS = {torch.uint8: "uint8", torch.int8: "int8"}


@functools.cache
def available() -> bool:
    """Whether products are compiled here: with llvmlite (LLVM 20 or newer), on x86 with AVX2."""
    if importlib.util.find_spec("llvmlite") is None:
        return False
    try:
        from llvmlite import binding
    except (ImportError, OSError) as error:  # its LLVM is a library that may not load here
        warnings.warn(f"experts on this CPU run without llvmlite: {error}", stacklevel=2)
        return False
    if binding.llvm_version_info[0] < 20:
        return False
    from moe_kernels.cpu.llvm import machine_code

    return machine_code.tile() is not None


@dataclass(frozen=True, eq=False)
class StoredWeights:
    """The weights of one GEMM as they are stored, [E, N, K], contiguous; see :func:`stored`."""

    values: torch.Tensor
    scale: torch.Tensor | None
    zero_point: torch.Tensor | None
    columns: int
    """K."""
    groups: tuple[int, int]
    """The rows and columns that one scale holds for."""
    kind: Kind

    def multiply(self, x: torch.Tensor, segments: Sequence[Segment], out: torch.Tensor) -> None:
        """Set ``out`` (float32 [P, N]) to ``x`` [P, K] times the weights of each token's expert.

        Rows outside of ``segments`` are not set. Weights, and sums of products, are float32. Raises
        ValueError for another K.
        """
        x = self._as_unpacked(x.float()).contiguous()
        self._run(_multiplication(self.kind), segments, x, out)

    def _as_unpacked(self, x: torch.Tensor) -> torch.Tensor:
        """The columns of ``x`` [P, K] in the order in which those of weights are unpacked."""
        if x.shape[1] != self.columns:
            raise ValueError(f"tokens have {x.shape[1]} columns, their weights {self.columns}")
        if self.kind.fmt not in _NIBBLES:
            return x
        # Of every 32 columns the even ones first.
        return x.reshape(len(x), -1, STEP // 2, 2).transpose(2, 3).reshape(x.shape)

    def rounds(self, dtype: torch.dtype) -> bool:
        """Whether :meth:`multiply_rounded` takes tokens of ``dtype``.

        On CPUs with matrix units: bf16, where N is a tile or more, and TILE rows of K fit caches.
        """
        large = self.values.shape[1] >= TILE and self.columns <= _LONGEST
        return (
            large and dtype == torch.bfloat16 and onednn.multiplies(dtype) and _has_matrix_units()
        )

    def multiply_rounded(
        self, x: torch.Tensor, segments: Sequence[Segment], out: torch.Tensor
    ) -> None:
        """:meth:`multiply` with weights rounded to bf16; for what it :meth:`rounds`."""
        assert self.rounds(x.dtype)
        x = self._as_unpacked(x)
        where: list[tuple[int, ...]] = []
        rows: list[int] = []
        num_tiles = 0
        for expert, start, stop in segments:
            where.append((expert, start, stop, num_tiles))
            count = -(-(stop - start) // TILE)
            rows += range(start, start + count * TILE)
            num_tiles += count
        # What is beyond a segment's tokens gives sums that are not stored.
        index = torch.tensor(rows, device="cpu").clamp_(max=len(x) - 1)
        # Two columns are an element.
        pairs = x.index_select(0, index).view(torch.int32)
        tiles = pairs.view(num_tiles, TILE, -1).transpose(1, 2).contiguous()
        self._run(_rounded_multiplication(self.kind), where, tiles, out)

    def convert(self, expert: int, rows: slice, out: torch.Tensor) -> None:
        """Set ``out`` [rows, K] (float32, bf16 or fp16) to some rows of one expert."""
        program = _conversion(self.kind, _FLOATS[out.dtype])
        self._run(program, [(expert, rows.start, rows.stop)], None, out)

    def _run(
        self,
        program: int,
        segments: Sequence[tuple[int, ...]],
        x: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        from moe_kernels.cpu.llvm import machine_code
        from moe_kernels.cpu.llvm.programs import ARGUMENTS, BLOCK_ROWS

        values, scale, zero_point = self.values, self.scale, self.zero_point
        n = values.shape[1]
        where = torch.tensor(segments, dtype=torch.int64, device="cpu")
        blocks = -(-n // BLOCK_ROWS)
        items = blocks * len(segments)
        fields = {
            "n": n,
            "k": self.columns,
            "row_bytes": values.stride(1) * values.element_size(),
            "expert_scales": 0 if scale is None else scale.stride(0),
            "row_scales": 0 if scale is None or scale.dim() < 3 else scale.stride(1),
            "rows_of_scale": self.groups[0],
            "columns_of_scale": self.groups[1],
            "blocks": blocks,
            "items": items,
            "next_item": 0,
        }
        tensors = {
            "values": values,
            "scale": scale,
            "zero_point": zero_point,
            "x": x,
            "out": out,
            "segments": where,
        }
        fields |= {name: 0 if t is None else t.data_ptr() for name, t in tensors.items()}
        arguments = (ctypes.c_int64 * len(ARGUMENTS))(*(fields[name] for name in ARGUMENTS))
        machine_code.run(program, arguments, parallel=items > 1)


def stored(
    values: torch.Tensor,
    fmt: str | None = None,
    scale: torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
    groups: tuple[int, int] = TENSOR,
) -> StoredWeights | None:
    """Weights in a format of :mod:`moe_kernels.quantization.schemes`, None: not quantized.

    ``groups``: of FP8, the group shape of the scales. None if there is no product of such weights:
    sizes that are not multiples of 32, memory that is not contiguous, formats of others.
    """
    if not available():
        return None
    num_experts, n, columns = values.shape
    columns *= 2 if fmt in _NIBBLES else 1
    name = _FLOATS.get(values.dtype) if fmt is None else fmt
    if name is None or (fmt is not None and values.dtype != _FORMATS.get(fmt)):
        return None
    rows_of_scale, columns_of_scale = _scaled_together(fmt, scale, groups, n, columns)
    whole_steps = columns_of_scale >= columns or columns_of_scale % STEP == 0
    if columns == 0 or columns % STEP or columns_of_scale == 0 or not whole_steps:
        return None
    # Programs trust what they read: everything has to be where it is looked for.
    if (scale is None) != (fmt is None) or (scale is None and zero_point is not None):
        return None
    per_expert = (
        ()
        if scale is None or scale.dim() < 3
        else (
            -(-n // rows_of_scale),
            -(-columns // columns_of_scale),
        )
    )
    for tensor in (scale, zero_point):
        if tensor is not None and tensor.shape != (num_experts, *per_expert):
            return None
    if not all(t is None or t.is_contiguous() for t in (values, scale, zero_point)):
        return None
    scales = _E8M0 if fmt == "mxfp4" else _FLOATS
    kind = Kind(
        name,
        None if scale is None else scales.get(scale.dtype),
        None if zero_point is None else _ZERO_POINTS.get(zero_point.dtype),
    )
    if (kind.scale is None) != (scale is None) or (kind.zero_point is None) != (zero_point is None):
        return None
    groups = rows_of_scale, columns_of_scale
    return StoredWeights(values, scale, zero_point, columns, groups, kind)


def _scaled_together(
    fmt: str | None, scale: torch.Tensor | None, groups: tuple[int, int], n: int, columns: int
) -> tuple[int, int]:
    """The rows and columns that one scale holds for; no columns if that cannot be said."""
    if scale is None or scale.dim() < 3:
        return n, columns
    if fmt != "fp8":
        count = scale.shape[2]
        return 1, columns // count if count and columns % count == 0 else 0
    if groups in (CHANNEL, TOKEN):
        return 1, columns
    return groups[0] if groups[0] > 0 else n, groups[1] if groups[1] > 0 else columns


@functools.cache
def _has_matrix_units() -> bool:
    """Whether this CPU has those that programs are made for, and lets this process use them."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.cpu._is_amx_tile_supported()
        and torch.cpu._init_amx()
    )


@functools.cache
def _rounded_multiplication(kind: Kind) -> int:
    from moe_kernels.cpu.llvm import machine_code
    from moe_kernels.cpu.llvm.matrix_units import tiled_multiplication

    return machine_code.compiled(tiled_multiplication(kind))


@functools.cache
def _multiplication(kind: Kind) -> int:
    from moe_kernels.cpu.llvm import machine_code
    from moe_kernels.cpu.llvm.programs import multiplication

    tile = machine_code.tile()
    assert tile is not None
    return machine_code.compiled(multiplication(kind, tile))


@functools.cache
def _conversion(kind: Kind, dtype: str) -> int:
    from moe_kernels.cpu.llvm import machine_code
    from moe_kernels.cpu.llvm.programs import conversion

    tile = machine_code.tile()
    assert tile is not None
    return machine_code.compiled(conversion(kind, dtype, tile.width))
