"""The product of stored weights with tokens on an x86 CPU's matrix units (AMX).

Sixteen rows of an expert's weights are multiplied by sixteen of its tokens at a time, 32 columns
of both in one instruction. Rows of weights that are bf16 come from memory as they are; others
become bf16 before, sixteen whole rows that stay in the core's cache.
"""

# llvmlite is not annotated.
# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llvmlite import ir

from moe_kernels.cpu.llvm import STEP, TILE, Kind
from moe_kernels.cpu.llvm.emit import (
    FLOAT,
    INT8,
    INT16,
    INT32,
    INT64,
    POINTER,
    element,
    int64,
    least,
    loop,
    repeated,
    vector,
)
from moe_kernels.cpu.llvm.formats import FORMATS
from moe_kernels.cpu.llvm.programs import Row, arguments_of, each_step, intrinsic, shared_out

_WIDTH = 16
"""Floats of a vector: all CPUs with matrix units have as many."""

_MOST = 4
"""Tiles of tokens that share what is read of a tile of weights; registers hold eight in all."""


class _Named(ir.Type):
    """A type of LLVM's that llvmlite lacks."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _to_string(self) -> str:
        return self._name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and other._name == self._name

    def __hash__(self) -> int:
        return hash(self._name)


_BF16, _TILE = _Named("bfloat"), _Named("x86_amx")


class _MatrixUnits:
    """Their instructions, for tiles of TILE times 64 bytes."""

    def __init__(self, module: ir.Module) -> None:
        size = [INT16, INT16]
        self._shape = [ir.Constant(INT16, TILE), ir.Constant(INT16, 64)]
        self._load = self._declared(module, "tileloadd64", _TILE, [*size, POINTER, INT64])
        self._zero = self._declared(module, "tilezero", _TILE, size)
        self._multiply = self._declared(module, "tdpbf16ps", _TILE, [*size, INT16, *[_TILE] * 3])
        stored = [*size, POINTER, INT64, _TILE]
        self._store = self._declared(module, "tilestored64", ir.VoidType(), stored)

    def _declared(
        self, module: ir.Module, name: str, result: ir.Type, arguments: list[ir.Type]
    ) -> ir.Function:
        return intrinsic(module, f"llvm.x86.{name}.internal", result, arguments)

    def load(self, b: ir.IRBuilder, address: ir.Value, stride: ir.Value) -> ir.Value:
        return b.call(self._load, [*self._shape, address, stride])

    def zero(self, b: ir.IRBuilder) -> ir.Value:
        return b.call(self._zero, self._shape)

    def multiply(self, b: ir.IRBuilder, sums: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        return b.call(self._multiply, [*self._shape, self._shape[1], sums, x, y])

    def store(self, b: ir.IRBuilder, tile: ir.Value, address: ir.Value, stride: ir.Value) -> None:
        b.call(self._store, [*self._shape, address, stride, tile])


def tiled_multiplication(kind: Kind) -> ir.Module:
    """``run``: sets out [P, N] (float32) to tokens [P, K] times each one's expert's weights.

    ``segments``: (expert, first token, token to stop at, first tile of tokens). ``x``: tiles
    [K / 2, TILE] of two columns of bf16 each, of a segment's tokens in turn; where the format has
    ``halves``, so has x in every STEP columns. N is at least TILE.
    """
    module = ir.Module()
    some_rows = _multiply_rows(module, kind)

    def segment(
        b: ir.IRBuilder, pointer: ir.Value, rows: Sequence[ir.Value], where: Sequence[ir.Value]
    ) -> None:
        last = b.sub(arguments_of(b, pointer)["n"], int64(TILE))

        def tile(row: ir.Value, _: object) -> Sequence[ir.Value]:
            # The last rows are computed twice, so that there are enough.
            b.call(some_rows, [pointer, least(b, row, last), *where])
            return ()

        first, stop = rows
        loop(b, first, stop, int64(TILE), tile)

    shared_out(module, segment, fields=4)
    return module


def _multiply_rows(module: ir.Module, kind: Kind) -> ir.Function:
    """A function of (arguments, first row, expert, first token, token to stop at, first tile)."""
    units = _MatrixUnits(module)
    products = [_multiply_tiles(module, units, kind, count + 1) for count in range(_MOST)]
    signature = ir.FunctionType(ir.VoidType(), [POINTER, *[INT64] * 5])
    function = ir.Function(module, signature, "rows")
    function.linkage = "internal"
    pointer, first_row, expert, start, stop, first_tile = function.args
    b = ir.IRBuilder(function.append_basic_block())
    arguments = arguments_of(b, pointer)
    weights, stride = _rows_in_bf16(b, kind, arguments, expert, first_row)

    def some_tokens(token: ir.Value, _: object) -> Sequence[ir.Value]:
        tile = b.add(first_tile, b.udiv(b.sub(token, start), int64(TILE)))
        count = b.udiv(b.add(b.sub(stop, token), int64(TILE - 1)), int64(TILE))
        whole, after = b.append_basic_block(), b.append_basic_block()
        choice = b.switch(count, whole)
        for number, product in enumerate(products, 1):
            block = whole
            if number < _MOST:
                block = b.append_basic_block()
                choice.add_case(int64(number), block)
            b.position_at_end(block)
            b.call(product, [pointer, weights, stride, first_row, token, stop, tile])
            b.branch(after)
        b.position_at_end(after)
        return ()

    loop(b, start, stop, int64(_MOST * TILE), some_tokens)
    b.ret_void()
    return function


def _rows_in_bf16(
    b: ir.IRBuilder,
    kind: Kind,
    arguments: Mapping[str, ir.Value],
    expert: ir.Value,
    first_row: ir.Value,
) -> tuple[ir.Value, ir.Value]:
    """Where TILE rows of weights are as bf16, but for the format's factor, and how far apart."""
    if kind.fmt == "bf16":
        stride = arguments["row_bytes"]
        row = b.add(b.mul(expert, arguments["n"]), first_row)
        return b.gep(arguments["values"], [b.mul(row, stride)], source_etype=INT8), stride
    stride = b.mul(arguments["k"], int64(2))
    memory = b.alloca(INT8, size=b.mul(stride, int64(TILE)))
    memory.align = 64
    rounded = b.inttoptr(b.ptrtoint(memory, INT64), POINTER)  # of any type

    def one_row(number: ir.Value, _: object) -> Sequence[ir.Value]:
        row = Row(b, kind, _WIDTH, arguments, expert, b.add(first_row, number))
        to = b.gep(rounded, [b.mul(number, stride)], source_etype=INT8)

        def store(column: ir.Value, values: list[ir.Value]) -> None:
            row.prefetch(column)
            for i, value in enumerate(values):
                offset = b.mul(b.add(column, int64(i * _WIDTH)), int64(2))
                address = b.gep(to, [offset], source_etype=INT8)
                b.store(b.fptrunc(value, vector(_BF16, _WIDTH)), address, align=1)

        each_step(b, arguments, row, store)
        return ()

    loop(b, int64(0), int64(TILE), int64(1), one_row)
    return rounded, stride


def _multiply_tiles(module: ir.Module, units: _MatrixUnits, kind: Kind, count: int) -> ir.Function:
    """A function for TILE rows and so many tiles of tokens.

    Of (arguments, rows in bf16, how far apart, first row, first token, token to stop at, first
    tile).
    """
    signature = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, *[INT64] * 5])
    function = ir.Function(module, signature, f"tiles_{count}")
    function.linkage = "internal"
    pointer, weights, stride, first_row, first_token, stop_token, first_tile = function.args
    b = ir.IRBuilder(function.append_basic_block())
    arguments = arguments_of(b, pointer)
    line, tile_bytes = int64(64), b.mul(arguments["k"], int64(2 * TILE))
    x = b.gep(arguments["x"], [b.mul(first_tile, tile_bytes)], source_etype=INT8)

    def step(column: ir.Value, sums: Sequence[Any]) -> Sequence[Any]:
        offset = b.mul(column, int64(2))
        rows = units.load(b, b.gep(weights, [offset], source_etype=INT8), stride)
        results = []
        for i, tile in enumerate(sums):
            offset = b.add(b.mul(tile_bytes, int64(i)), b.mul(column, int64(2 * TILE)))
            tokens = units.load(b, b.gep(x, [offset], source_etype=INT8), line)
            results.append(units.multiply(b, tile, rows, tokens))
        return results

    zeros = [units.zero(b) for _ in range(count)]
    sums = loop(b, int64(0), arguments["k"], int64(STEP), step, zeros)
    _store_sums(b, units, kind, arguments, sums, first_row, first_token, stop_token)
    b.ret_void()
    return function


def _store_sums(
    b: ir.IRBuilder,
    units: _MatrixUnits,
    kind: Kind,
    arguments: Mapping[str, ir.Value],
    sums: Sequence[Any],
    first_row: ir.Value,
    first_token: ir.Value,
    stop_token: ir.Value,
) -> None:
    """Store tiles [rows, tokens] to where out has the tokens' rows, of the tokens that exist."""
    buffer = b.alloca(ir.ArrayType(FLOAT, TILE * TILE))
    buffer.align = 64
    floats = vector(FLOAT, TILE)
    factor = repeated(FLOAT, FORMATS[kind.fmt].factor, TILE)
    for i, tile in enumerate(sums):
        units.store(b, tile, buffer, int64(64))
        first = b.add(first_token, int64(i * TILE))

        def one_token(j: ir.Value, _: object, first: ir.Value = first) -> Sequence[ir.Value]:
            column = ir.Constant(floats, ir.Undefined)
            for row in range(TILE):
                value = element(b, buffer, b.add(j, int64(row * TILE)), FLOAT)
                column = b.insert_element(column, value, ir.Constant(INT32, row))
            index = b.add(b.mul(b.add(first, j), arguments["n"]), first_row)
            address = b.gep(arguments["out"], [index], source_etype=FLOAT)
            b.store(b.fmul(column, factor), address, align=4)
            return ()

        loop(b, int64(0), least(b, int64(TILE), b.sub(stop_token, first)), int64(1), one_token)
