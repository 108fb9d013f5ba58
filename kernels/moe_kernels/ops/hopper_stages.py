"""The stages by which warpgroups on Hopper hand on what one loads and others multiply."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier


@gluon.jit
def barriers_of_stages(FILLING: gl.constexpr, EMPTYING: gl.constexpr, S: gl.constexpr):
    """(the barriers of full stages, those of empty ones), for so many arrivals at each."""
    full = gl.allocate_shared_memory(gl.int64, [S.stages, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [S.stages, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(S.stages):
        mbarrier.init(full.index(stage), count=FILLING)
        mbarrier.init(empty.index(stage), count=EMPTYING)
    fence_async_shared()
    return full, empty


@gluon.jit
def next_stage_of(stage, phase, S: gl.constexpr):
    """The stage after this one, and the phase of its barriers."""
    last = stage == S.stages - 1
    return gl.where(last, 0, stage + 1), gl.where(last, phase ^ 1, phase)
