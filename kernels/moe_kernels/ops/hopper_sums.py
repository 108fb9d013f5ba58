"""How the multiplying warpgroups of the GEMM for Hopper sum up a tile's products.

``buffers`` are as in :mod:`moe_kernels.ops.hopper_programs`. All functions return the stage that
comes next, and its phase, after the sums.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from moe_kernels.ops.gluon_names import as_other
from moe_kernels.ops.hopper_stages import next_stage_of


@gluon.jit
def _add_scaled(part, sums, scale, S: gl.constexpr):
    """``part + sums * scale`` (of rows, where S has some), done before the product that follows.

    That one is to overwrite ``sums``, not to take as many registers again.
    """
    if S.scales == "block":
        part = gl.inline_asm_elementwise(
            "fma.rn.f32 $0, $1, $2, $3;",
            "=f,f,f,f",
            [sums, gl.expand_dims(scale, 1), part],
            dtype=gl.float32,
            is_pure=False,
            pack=1,
        )
    else:
        part = gl.inline_asm_elementwise(
            "add.rn.f32 $0, $1, $2;",
            "=f,f,f",
            [sums, part],
            dtype=gl.float32,
            is_pure=False,
            pack=1,
        )
    return part


@gluon.jit
def scales_of_stage(scale_buffers, stage, S: gl.constexpr):
    """Where the scales of a stage's rows of A are; to TMA they are a matrix."""
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    return as_other(scale_buffers.index(stage), gl.float32, [S.block_m], plain)


@gluon.jit
def _arrived(GROUP: gl.constexpr, buffers, stage, phase, layout: gl.constexpr, S: gl.constexpr):
    """Wait for a stage; returns the scales of its rows of A, or 0 where sums are not scaled."""
    scale_buffers, full = buffers[2:4]
    HALF: gl.constexpr = S.block_m // 2
    mbarrier.wait(full.index(stage), phase)
    if not S.a_is_sorted:
        fence_async_shared()  # rows came by other means than TMA
    if S.scales == "block":
        return scales_of_stage(scale_buffers, stage, S).slice(GROUP * HALF, HALF).load(layout)
    else:
        return 0.0


@gluon.jit
def sums_of_tile(
    BOTH: gl.constexpr,
    GROUP: gl.constexpr,
    buffers,
    stage,
    phase,
    b_scales,
    num_tiles_k,
    never,
    S: gl.constexpr,
):
    """The sums of both halves of the weight's rows, of 128 products each moved into float32.

    While a product runs, the next stage is waited for; the last sums are moved when the products
    of that could start. So matrix units wait for little but the moving.

    BOTH: else there is one half, which is where the first one is; its sums are returned twice.
    b_scales: of each half the first scale, then pointers to both. never: false, which the compiler
    must not know.
    """
    a_buffers, b_buffers = buffers[:2]
    empty = buffers[4]
    b_scale_0, b_scale_1, b_scale_0_ptr, b_scale_1_ptr = b_scales
    HALF: gl.constexpr = S.block_m // 2
    PART: gl.constexpr = S.block_n // 2
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PART, 32])
    by_row: gl.constexpr = gl.SliceLayout(1, layout)
    first = gl.zeros((HALF, PART), gl.float32, layout)
    last = gl.zeros((HALF, PART), gl.float32, layout)
    sums = gl.zeros((HALF, PART), gl.float32, layout)
    a_scale = _arrived(GROUP, buffers, stage, phase, by_row, S)
    last_scale = a_scale * 0.0
    for k in range(num_tiles_k):
        a = a_buffers.index(2 * stage + GROUP)
        b = b_buffers.index(stage).permute((1, 0))
        last = _add_scaled(last, sums, last_scale, S)
        sums = warpgroup_mma(a, b.slice(0, PART, 1), sums, use_acc=never, is_async=True)
        following = gl.minimum(k + 1, num_tiles_k - 1)
        scale = a_scale
        if S.scales == "block":
            scale = a_scale * b_scale_0
            last_scale = scale
            b_scale_0 = gl.load(b_scale_0_ptr + following)
            if BOTH:
                last_scale = a_scale * b_scale_1
                b_scale_1 = gl.load(b_scale_1_ptr + following)
        if BOTH:
            sums = warpgroup_mma_wait(0, (sums,))
            first = _add_scaled(first, sums, scale, S)
            sums = warpgroup_mma(a, b.slice(PART, PART, 1), sums, use_acc=never, is_async=True)
        next_stage, next_phase = next_stage_of(stage, phase, S)
        # After the last there may be none: this one has arrived.
        ahead = gl.where(following > k, next_stage, stage)
        ahead_phase = gl.where(following > k, next_phase, phase)
        a_scale = _arrived(GROUP, buffers, ahead, ahead_phase, by_row, S)
        sums = warpgroup_mma_wait(0, (sums,))
        mbarrier.arrive(empty.index(stage))
        stage = next_stage
        phase = next_phase
    last = _add_scaled(last, sums, last_scale, S)
    if not BOTH:
        first = last
    return first, last, stage, phase


@gluon.jit
def sums_of_16_bits(
    BOTH: gl.constexpr, GROUP: gl.constexpr, buffers, stage, phase, num_tiles_k, S: gl.constexpr
):
    """The same for bf16 and fp16, all products of a sum within the matrix units.

    Products of a stage are asked for while those of the one before run.
    """
    a_buffers, b_buffers = buffers[:2]
    empty = buffers[4]
    HALF: gl.constexpr = S.block_m // 2
    PART: gl.constexpr = S.block_n // 2
    COLUMNS: gl.constexpr = S.block_n if BOTH else PART
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    of_half: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PART, 16])
    sums = gl.zeros((HALF, COLUMNS), gl.float32, layout)
    for k in range(num_tiles_k):
        _arrived(GROUP, buffers, stage, phase, layout, S)
        a = a_buffers.index(2 * stage + GROUP)
        b = b_buffers.index(stage)
        if not S.b_is_transposed:
            b = b.slice(0, COLUMNS).permute((1, 0))
        sums = warpgroup_mma(a, b, sums, is_async=True)
        sums = warpgroup_mma_wait(1, (sums,))
        before = gl.where(stage == 0, S.stages, stage) - 1
        mbarrier.arrive(empty.index(before), pred=k > 0)
        stage, phase = next_stage_of(stage, phase, S)
    sums = warpgroup_mma_wait(0, (sums,))
    mbarrier.arrive(empty.index(gl.where(stage == 0, S.stages, stage) - 1))
    if BOTH:
        part_0, part_1 = gl.split(gl.permute(gl.reshape(sums, (HALF, 2, PART)), (0, 2, 1)))
        part_0 = gl.convert_layout(part_0, of_half, assert_trivial=True)
        part_1 = gl.convert_layout(part_1, of_half, assert_trivial=True)
    else:
        part_0 = sums
        part_1 = sums
    return part_0, part_1, stage, phase
