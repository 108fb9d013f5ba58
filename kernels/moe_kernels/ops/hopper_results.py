"""What comes of the sums of a tile on Hopper: scaled, with a bias, activated, stored.

``operands``, ``routing`` and ``result`` are as in :mod:`moe_kernels.ops.hopper_programs`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma

from moe_kernels.ops.activation import activate
from moe_kernels.ops.gluon_names import store_tile


@gluon.jit
def scaled(part, row_scale, first, expert, N, operands, S: gl.constexpr):
    """The sums ``part`` by their scales, and with a bias; the weight's rows start at ``first``."""
    b_scale_ptr, stride_bse, stride_bsn, bias_ptr = operands[8:12]
    n = first + gl.arange(0, part.shape[1], gl.SliceLayout(0, part.type.layout))
    if S.scales == "outer":
        if S.one_b_scale:
            part = part * (row_scale * gl.load(b_scale_ptr + expert * stride_bse))[:, None]
        else:
            b_scale_ptrs = b_scale_ptr + expert * stride_bse + n * stride_bsn
            b_scale = gl.load(b_scale_ptrs, mask=n < N, other=0.0)
            part = part * (row_scale[:, None] * b_scale[None, :])
    if S.has_bias:
        bias = gl.load(bias_ptr + expert * N + n, mask=n < N, other=0.0)
        part += bias.to(gl.float32)[None, :]
    return part


@gluon.jit
def _rounded(x, dtype: gl.constexpr):
    """``x`` as if it had been stored as ``dtype``; to bf16, in half as many conversions."""
    if dtype == gl.bfloat16:
        return gl.inline_asm_elementwise(
            """{
            .reg .b32 both;
            cvt.rn.bf16x2.f32 both, $3, $2;
            shl.b32 $0, both, 16;
            and.b32 $1, both, 0xffff0000;
            }""",
            "=r,=r,r,r",
            [x],
            dtype=gl.float32,
            is_pure=True,
            pack=2,
        )
    else:
        return x.to(dtype).to(gl.float32)


@gluon.jit
def _sigmoid(x):
    """As ``tl.sigmoid``, to the last bit or two, without what that does for subnormal numbers."""
    return gl.inline_asm_elementwise(
        """{
        .reg .f32 power;
        mul.f32 power, $1, 0fBFB8AA3B;  // -log2(e)
        ex2.approx.ftz.f32 power, power;
        add.f32 power, power, 0f3F800000;
        rcp.approx.ftz.f32 $0, power;
        }""",
        "=f,f",
        [x],
        dtype=gl.float32,
        is_pure=True,
        pack=1,
    )


@gluon.jit
def activated(gate, up, result, S: gl.constexpr):
    """The activation of sums, those of quantized operands rounded as if they had been stored."""
    out, _, parameters = result[:3]
    if S.quantized:
        dtype: gl.constexpr = out.dtype if S.stores_by_tma else out.dtype.element_ty
        gate = _rounded(gate, dtype)
        up = _rounded(up, dtype)
    return activate(gate, up, parameters, S, _sigmoid)


@gluon.jit
def store_rows(value, column, where, routing, result, S: gl.constexpr):
    """Store ``value`` [rows, columns], from ``column`` on, of the pairs from ``where`` on."""
    if S.stores_by_tma:
        out_desc, staging = result[0], result[3]
        tma.store_wait(0)  # until what is there has been read
        staging.store(value.to(out_desc.dtype))
        fence_async_shared()
        store_tile(out_desc, [where, column], staging)
    else:
        _store_by_threads(value, column, where, routing, result, S)


@gluon.jit
def _store_by_threads(value, column, where, routing, result, S: gl.constexpr):
    sorted_token_ids_ptr, num_pairs = routing[0], routing[4]
    out_ptr, width = result[0], result[1]
    ROWS: gl.constexpr = value.shape[0]
    COLUMNS: gl.constexpr = value.shape[1]
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // COLUMNS, COLUMNS // 8], [4, 1], [1, 0])
    row = where + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    mask = row >= 0
    if not S.out_is_sorted:
        row = gl.load(sorted_token_ids_ptr + row)
        mask = row < num_pairs
    value = gl.convert_layout(value.to(out_ptr.dtype.element_ty), layout)
    columns = column + gl.arange(0, COLUMNS, gl.SliceLayout(0, layout))
    gl.store(
        out_ptr + row[:, None].to(gl.int64) * width + columns[None, :],
        value,
        mask=mask[:, None] & (columns < width)[None, :],
    )
