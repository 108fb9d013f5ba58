"""The two programs: tokens times stored weights, and stored weights as numbers.

Threads share out the work by a counter: each takes the next block of rows of one expert until none
is left. What a program works on is a structure of 64-bit integers, addresses among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from llvmlite import ir

from moe_kernels.cpu.llvm import STEP, Kind
from moe_kernels.cpu.llvm.emit import (
    FLOAT,
    INT8,
    INT16,
    INT32,
    INT64,
    POINTER,
    element,
    int64,
    interleaved,
    least,
    loop,
    repeated,
    splat,
    vector,
)
from moe_kernels.cpu.llvm.formats import FORMATS, SCALES, ZERO_POINTS

ARGUMENTS = (
    *("values", "scale", "zero_point", "n", "k", "row_bytes", "expert_scales", "row_scales"),
    *("rows_of_scale", "columns_of_scale", "x", "out", "segments", "blocks", "items", "next_item"),
)
"""The structure's fields. ``expert_scales``, ``row_scales``: scales from one expert, or row of
scales, to the next. ``segments``: (expert, start, stop) each, of tokens to be multiplied or rows to
be converted. ``blocks``: of BLOCK_ROWS, of each expert. ``items``: segments times blocks.
"""

BLOCK_ROWS = 48
"""Rows of weights that a thread takes at a time: many enough to reuse tokens in its cache."""

_AHEAD = 2048
"""So many bytes of weights are on their way while others are converted."""


class Tile(NamedTuple):
    """What is multiplied at a time, in registers."""

    width: int
    """The floats of a vector."""
    rows: int
    tokens: int


class Row:
    """One row of one expert's weights, in the function that ``b`` writes."""

    def __init__(
        self,
        b: ir.IRBuilder,
        kind: Kind,
        width: int,
        arguments: Mapping[str, ir.Value],
        expert: ir.Value,
        row: ir.Value,
    ) -> None:
        self._b, self._kind, self._width, self._arguments = b, kind, width, arguments
        self._format = FORMATS[kind.fmt]
        row_of_all = b.add(b.mul(expert, arguments["n"]), row)
        offset = b.mul(row_of_all, arguments["row_bytes"])
        self._values = b.gep(arguments["values"], [offset], source_etype=INT8)
        if kind.scale is not None:
            self._first_scale = b.add(
                b.mul(expert, arguments["expert_scales"]),
                b.mul(b.udiv(row, arguments["rows_of_scale"]), arguments["row_scales"]),
            )

    def group(self, column: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
        """The scale and the zero point at ``column``, as vectors."""
        b, (_, scale, zero_point), width = self._b, self._kind, self._width
        if scale is None:
            return None, None
        index = b.add(self._first_scale, b.udiv(column, self._arguments["columns_of_scale"]))
        factor = splat(b, SCALES[scale](b, self._arguments["scale"], index), width)
        if zero_point is not None:
            zero = ZERO_POINTS[zero_point](b, self._arguments["zero_point"], index)
            return factor, splat(b, zero, width)
        implied = self._format.zero
        return factor, None if implied is None else repeated(FLOAT, implied, width)

    def _address(self, column: ir.Value, ahead: int = 0) -> ir.Value:
        """Where ``column`` is, and so many bytes."""
        b = self._b
        offset = b.udiv(b.mul(column, int64(self._format.bits)), int64(8))
        return b.gep(self._values, [b.add(offset, int64(ahead))], source_etype=INT8)

    def prefetch(self, column: ir.Value) -> None:
        """Ask for what comes in memory some time after ``column``, in this row or a later one."""
        b = self._b
        arguments = [POINTER, *[INT32] * 3]
        ask = intrinsic(b.module, "llvm.prefetch.p0", ir.VoidType(), arguments)
        # To be read, into all caches, as data.
        b.call(ask, [self._address(column, _AHEAD), *(ir.Constant(INT32, x) for x in (0, 3, 1))])

    def weights(
        self, column: ir.Value, group: tuple[ir.Value | None, ir.Value | None]
    ) -> list[ir.Value]:
        """STEP weights from ``column`` on, but for the format's factor."""
        b, (scale, zero) = self._b, group
        address = self._address(column)
        result = self._format.decode(b, address, self._width)
        if zero is not None:
            result = [b.fsub(value, zero) for value in result]
        if scale is not None:
            result = [b.fmul(value, scale) for value in result]
        return result


def each_step(
    b: ir.IRBuilder,
    arguments: Mapping[str, ir.Value],
    row: Row,
    body: Callable[[ir.Value, list[ir.Value]], None],
) -> None:
    """Write ``body(column, weights)`` for every STEP of a row, with :meth:`Row.weights`."""
    k = arguments["k"]

    def group(first: ir.Value, _: object) -> Sequence[ir.Value]:
        scales = row.group(first)

        def step(column: ir.Value, _: object) -> Sequence[ir.Value]:
            body(column, row.weights(column, scales))
            return ()

        stop = least(b, b.add(first, arguments["columns_of_scale"]), k)
        return loop(b, first, stop, int64(STEP), step)

    loop(b, int64(0), k, arguments["columns_of_scale"], group)


def multiplication(kind: Kind, tile: Tile) -> ir.Module:
    """``run``: sets out [P, N] (float32) to x [P, K] (float32) times each token's expert's weights.

    ``segments`` are ranges of x. Where the format has ``halves``, so has x in every STEP columns.
    Each sum is added up in the same order whatever the segments are.
    """
    module = ir.Module()
    tiles = [_multiply_tile(module, kind, tile._replace(tokens=n + 1)) for n in range(tile.tokens)]

    def segment(
        b: ir.IRBuilder, pointer: ir.Value, rows: Sequence[ir.Value], where: Sequence[ir.Value]
    ) -> None:
        expert, start, stop = where

        def some_tokens(token: ir.Value, _: object) -> Sequence[ir.Value]:
            whole, after = b.append_basic_block(), b.append_basic_block()
            choice = b.switch(b.sub(stop, token), whole)
            for count, function in enumerate(tiles, 1):
                block = whole
                if count < tile.tokens:
                    block = b.append_basic_block()
                    choice.add_case(int64(count), block)
                b.position_at_end(block)
                b.call(function, [pointer, expert, *rows, token])
                b.branch(after)
            b.position_at_end(after)
            return ()

        loop(b, start, stop, int64(tile.tokens), some_tokens)

    shared_out(module, segment)
    return module


def _multiply_tile(module: ir.Module, kind: Kind, tile: Tile) -> ir.Function:
    """A function of (arguments, expert, first row, row to stop at, first token) for one tile."""
    width, num_rows, num_tokens = tile
    floats = vector(FLOAT, width)
    fma = intrinsic(module, f"llvm.fma.v{width}f32", floats, [floats] * 3)
    add_up = intrinsic(module, f"llvm.vector.reduce.fadd.v{width}f32", FLOAT, [FLOAT, floats])
    signature = ir.FunctionType(ir.VoidType(), [POINTER, *[INT64] * 4])
    function = ir.Function(module, signature, f"tokens_{num_tokens}")
    function.linkage = "internal"
    pointer, expert, first_row, stop_row, first_token = function.args
    b = ir.IRBuilder(function.append_basic_block())
    arguments = arguments_of(b, pointer)
    tokens = [b.add(first_token, int64(j)) for j in range(num_tokens)]
    k = arguments["k"]
    inputs = [b.gep(arguments["x"], [b.mul(token, k)], source_etype=FLOAT) for token in tokens]

    def some_rows(first: ir.Value, _: object) -> Sequence[ir.Value]:
        # Beyond the last row, that again.
        last = b.sub(stop_row, int64(1))
        numbers = [least(b, b.add(first, int64(i)), last) for i in range(num_rows)]
        rows = [Row(b, kind, width, arguments, expert, number) for number in numbers]

        def group(start: ir.Value, sums: Sequence[ir.Value]) -> Sequence[ir.Value]:
            groups = [row.group(start) for row in rows]

            def step(column: ir.Value, sums: Sequence[ir.Value]) -> Sequence[ir.Value]:
                if FORMATS[kind.fmt].bits < 32:  # which are waited for anyway
                    for row in rows:
                        row.prefetch(column)
                weights = [
                    row.weights(column, group) for row, group in zip(rows, groups, strict=True)
                ]
                sums = list(sums)
                for part in range(STEP // width):
                    index = b.add(column, int64(part * width))
                    for j, x in enumerate(inputs):
                        values = element(b, x, index, floats, FLOAT)
                        for i in range(num_rows):
                            at = j * num_rows + i
                            sums[at] = b.call(fma, [weights[i][part], values, sums[at]])
                return sums

            stop = least(b, b.add(start, arguments["columns_of_scale"]), k)
            return loop(b, start, stop, int64(STEP), step, sums)

        zeros = [repeated(FLOAT, 0.0, width)] * (num_rows * num_tokens)
        sums = loop(b, int64(0), k, arguments["columns_of_scale"], group, zeros)
        for j, token in enumerate(tokens):
            for i, number in enumerate(numbers):
                lanes = sums[j * num_rows + i]
                total = b.call(add_up, [ir.Constant(FLOAT, -0.0), lanes], fastmath=("reassoc",))
                total = b.fmul(total, ir.Constant(FLOAT, FORMATS[kind.fmt].factor))
                index = b.add(b.mul(token, arguments["n"]), number)
                b.store(total, b.gep(arguments["out"], [index], source_etype=FLOAT))
        return ()

    loop(b, first_row, stop_row, int64(num_rows), some_rows)
    b.ret_void()
    return function


def conversion(kind: Kind, dtype: str, width: int) -> ir.Module:
    """``run``: sets out [rows, K] to the weights of one segment, an expert and a range of rows.

    ``dtype``: of out, "fp32", "bf16" or "fp16".
    """
    module, fmt = ir.Module(), FORMATS[kind.fmt]

    def segment(
        b: ir.IRBuilder, pointer: ir.Value, rows: Sequence[ir.Value], where: Sequence[ir.Value]
    ) -> None:
        arguments = arguments_of(b, pointer)
        expert, start, stop = where
        k, size = arguments["k"], int64(4 if dtype == "fp32" else 2)

        def one_row(number: ir.Value, _: object) -> Sequence[ir.Value]:
            row = Row(b, kind, width, arguments, expert, b.add(start, number))

            def store(column: ir.Value, weights: list[ir.Value]) -> None:
                if fmt.halves:
                    half = len(weights) // 2
                    pairs = zip(weights[:half], weights[half:], strict=True)
                    weights = [part for pair in pairs for part in interleaved(b, *pair)]
                for part, value in enumerate(weights):
                    index = b.add(b.mul(number, k), b.add(column, int64(part * width)))
                    offset = b.mul(index, size)
                    address = b.gep(arguments["out"], [offset], source_etype=INT8)
                    value = b.fmul(value, repeated(FLOAT, fmt.factor, width))
                    b.store(_rounded(b, value, dtype), address, align=1)

            each_step(b, arguments, row, store)
            return ()

        first, last = rows
        loop(b, first, least(b, last, b.sub(stop, start)), int64(1), one_row)

    shared_out(module, segment)
    return module


def _rounded(b: ir.IRBuilder, value: ir.Value, dtype: str) -> ir.Value:
    """Floats rounded to the nearest of ``dtype``, ties to even, as bits where LLVM has no name."""
    width = value.type.count
    if dtype == "fp32":
        return value
    if dtype == "fp16":
        return b.fptrunc(value, vector(ir.HalfType(), width))
    bits = b.bitcast(value, vector(INT32, width))
    above = b.lshr(bits, repeated(INT32, 16, width))
    to_even = b.add(b.and_(above, repeated(INT32, 1, width)), repeated(INT32, 0x7FFF, width))
    rounded = b.lshr(b.add(bits, to_even), repeated(INT32, 16, width))
    is_nan = b.fcmp_unordered("uno", value, value)
    return b.trunc(b.select(is_nan, repeated(INT32, 0x7FC0, width), rounded), vector(INT16, width))


Segment = Callable[[ir.IRBuilder, ir.Value, Sequence[ir.Value], Sequence[ir.Value]], None]
"""Writes what is done with the structure, a range of rows, and (expert, start, stop)."""


def shared_out(module: ir.Module, segment: Segment, fields: int = 3) -> None:
    """``run``: takes one item after the other and gives ``segment`` its rows and where it is.

    fields: the numbers of one of ``segments``.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), "run")
    (pointer,) = function.args
    b = ir.IRBuilder(function.append_basic_block())
    arguments = arguments_of(b, pointer)
    head, inside, after = (b.append_basic_block() for _ in range(3))
    b.branch(head)
    b.position_at_end(head)
    counter = b.gep(pointer, [int64(ARGUMENTS.index("next_item"))], source_etype=INT64)
    item = b.atomic_rmw("add", counter, int64(1), "monotonic")
    b.cbranch(b.icmp_unsigned("<", item, arguments["items"]), inside, after)
    b.position_at_end(inside)
    first = b.mul(b.urem(item, arguments["blocks"]), int64(BLOCK_ROWS))
    rows = first, least(b, b.add(first, int64(BLOCK_ROWS)), arguments["n"])
    number = b.mul(b.udiv(item, arguments["blocks"]), int64(fields))
    at = [b.add(number, int64(i)) for i in range(fields)]
    where = [element(b, arguments["segments"], index, INT64) for index in at]
    segment(b, pointer, rows, where)
    b.branch(head)
    b.position_at_end(after)
    b.ret_void()


def arguments_of(b: ir.IRBuilder, pointer: ir.Value) -> dict[str, ir.Value]:
    """The fields of ARGUMENTS, addresses as such."""
    addresses = ("values", "scale", "zero_point", "x", "out", "segments")
    fields = {name: element(b, pointer, int64(i), INT64) for i, name in enumerate(ARGUMENTS)}
    return fields | {name: b.inttoptr(fields[name], POINTER) for name in addresses}


def intrinsic(
    module: ir.Module, name: str, result: ir.Type, arguments: list[ir.Type]
) -> ir.Function:
    """A function of LLVM's own; llvmlite declares none of vectors."""
    known = module.globals.get(name)
    return known or ir.Function(module, ir.FunctionType(result, arguments), name)
