"""Which tiles the programs of the GEMM for Hopper compute, and in which order.

``routing`` is as in :mod:`moe_kernels.ops.hopper_programs`. The warpgroup that loads finds a tile,
and tells the others of it in shared memory.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

TOLD = gl.constexpr(8)
"""How many numbers there is room for that loading warps tell the others of a tile."""


@gluon.jit
def count_tiles(routing, S: gl.constexpr):
    """(how many tiles programs take turns over, how many of them are whole).

    Where the last turn would leave half of the programs or more without a tile, each of its tiles
    is two halves.
    """
    num_tiles = routing[2] * routing[3]
    in_last_turn = num_tiles % gl.num_programs(0)
    if S.halves_tiles:
        halved = gl.where(2 * in_last_turn <= gl.num_programs(0), in_last_turn, 0)
        return num_tiles + halved, num_tiles - halved
    else:
        return num_tiles, num_tiles


@gluon.jit
def _place(number, routing, S: gl.constexpr):
    """(tile_m, tile_n) of a tile's number: an expert's tiles in groups of about ``S.group_m`` rows.

    All of a group read the same weights at about the same time; so those of an expert are read once
    where it has one group.
    """
    num_tiles_n = routing[3]
    some_m = number // num_tiles_n  # of the group
    of_expert_ptr = routing[8] + 2 * some_m
    first = gl.load(of_expert_ptr)
    count = gl.load(of_expert_ptr + 1)
    size = gl.cdiv(count, gl.cdiv(count, S.group_m))
    before = (some_m - first) // size * size
    size = gl.minimum(size, count - before)
    in_group = number - (first + before) * num_tiles_n
    return first + before + in_group % size, in_group // size


@gluon.jit
def looked_up(tile, routing, S: gl.constexpr):
    """(tile_m, tile_n, half, expert, first pairs of both halves of its rows) of a tile.

    half: which of its rows of the weight, -1 for both, of which the second is none where nothing is
    in it.
    """
    sorted_token_ids_ptr, expert_ids_ptr = routing[:2]
    num_whole = count_tiles(routing, S)[1]
    number = tile
    part = tile - num_whole
    if S.halves_tiles:
        number = gl.where(part < 0, tile, num_whole + part // 2)
    tile_m, tile_n = _place(number, routing, S)
    half = tile_n * 0 - 1
    if S.halves_tiles:
        whole = gl.where(tile_n * S.block_n + S.block_n // 2 < routing[7], -1, 0)
        half = gl.where(part < 0, whole, part % 2)
    expert = gl.load(expert_ids_ptr + tile_m)
    ids_ptr = sorted_token_ids_ptr + tile_m * S.block_m
    return tile_m, tile_n, half, expert, gl.load(ids_ptr), gl.load(ids_ptr + S.block_m // 2)


@gluon.jit
def take_tile(routing, num_tiles):
    """A tile that no program has, after that which each begins with.

    Each that is computed takes one, and the last leaves 0.
    """
    taken_ptr = routing[6]
    taken = gl.atomic_add(taken_ptr, 1, sem="relaxed", scope="gpu")
    if taken == num_tiles - 1:
        gl.store(taken_ptr, 0)
    return taken + gl.num_programs(0)


@gluon.jit
def tell(buffer, tile):
    """Write to ``buffer`` what was looked up of a tile."""
    index = gl.arange(0, TOLD, gl.BlockedLayout([1], [32], [4], [0]))
    told = gl.where(index == 0, tile[0], tile[1])
    for i in gl.static_range(2, 6):
        told = gl.where(index == i, tile[i], told)
    buffer.store(told)


@gluon.jit
def _told_number(buffer, i: gl.constexpr):
    one_each: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    return gl.max(buffer.slice(i, 1).load(one_each), 0)


@gluon.jit
def told(buffer, GROUP: gl.constexpr):
    """What was looked up of a tile, as (tile_m, tile_n, half, expert (int64), first pair).

    The pair is that of the GROUP-th half of its rows. Past the last tile, tile_m is -1.
    """
    expert = _told_number(buffer, 3).to(gl.int64)
    where = _told_number(buffer, 0), _told_number(buffer, 1), _told_number(buffer, 2)
    return where[0], where[1], where[2], expert, _told_number(buffer, 4 + GROUP)
