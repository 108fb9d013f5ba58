"""What programs are put together from: types, vectors and loops of LLVM's language."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HALF, FLOAT = ir.HalfType(), ir.FloatType()
POINTER = ir.PointerType()


def int64(value: int) -> ir.Constant:
    """A number of bytes, elements or times."""
    return ir.Constant(INT64, value)


def vector(element: ir.Type, width: int) -> ir.VectorType:
    """The type of ``width`` elements."""
    return ir.VectorType(element, width)


def repeated(element: ir.Type, value: float, width: int) -> ir.Constant:
    """A vector of one constant."""
    return ir.Constant(vector(element, width), [value] * width)


def splat(b: ir.IRBuilder, value: ir.Value, width: int) -> ir.Value:
    """A vector of one value."""
    nothing = ir.Constant(vector(value.type, width), ir.Undefined)
    first = b.insert_element(nothing, value, ir.Constant(INT32, 0))
    return b.shuffle_vector(first, nothing, repeated(INT32, 0, width))


def parts(b: ir.IRBuilder, value: ir.Value, width: int) -> list[ir.Value]:
    """A vector cut into vectors of ``width``."""
    return [
        _shuffled(b, value, value, range(start, start + width))
        for start in range(0, value.type.count, width)
    ]


def interleaved(b: ir.IRBuilder, even: ir.Value, odd: ir.Value) -> list[ir.Value]:
    """Two vectors whose elements come alternately from ``even`` and ``odd``."""
    width = even.type.count
    order = [
        index for pair in zip(range(width), range(width, 2 * width), strict=True) for index in pair
    ]
    return [_shuffled(b, even, odd, half) for half in (order[:width], order[width:])]


def _shuffled(b: ir.IRBuilder, x: ir.Value, y: ir.Value, order: Sequence[int]) -> ir.Value:
    return b.shuffle_vector(x, y, ir.Constant(vector(INT32, len(order)), list(order)))


def element(
    b: ir.IRBuilder, base: ir.Value, index: ir.Value, kind: ir.Type, size: ir.Type | None = None
) -> ir.Value:
    """What ``base`` holds at ``index``, counted in ``size`` (default: ``kind``)."""
    where = b.gep(base, [index], source_etype=size or kind)
    return b.load(where, typ=kind, align=1)


def least(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The smaller of two numbers that are not negative."""
    return b.select(b.icmp_unsigned("<", x, y), x, y)


def loop(
    b: ir.IRBuilder,
    start: ir.Value,
    stop: ir.Value,
    step: ir.Value,
    body: Callable[[ir.Value, Sequence[ir.Value]], Sequence[ir.Value]],
    carried: Sequence[ir.Value] = (),
) -> Sequence[ir.Value]:
    """``for i in range(start, stop, step): carried = body(i, carried)``; returns ``carried``."""
    before = b.block
    head, inside, after = (b.append_basic_block() for _ in range(3))
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(INT64)
    index.add_incoming(start, before)
    values = [b.phi(value.type) for value in carried]
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    b.cbranch(b.icmp_unsigned("<", index, stop), inside, after)
    b.position_at_end(inside)
    results = body(index, values)
    index.add_incoming(b.add(index, step), b.block)
    for phi, value in zip(values, results, strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(after)
    return values
