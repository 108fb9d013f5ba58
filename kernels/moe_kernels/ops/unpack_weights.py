"""Tiles of quantized weights to numbers, in registers.

Values, zero points and group scales are exact before one rounding to the dtype of the products
(scales wider than that dtype are rounded to it first). Codes come in the words of
:mod:`moe_kernels.quantization.words`, but for MXFP8's.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _e2m1(code):
    """The numbers of 4-bit codes: sign, 2 bits of exponent, 1 of mantissa."""
    magnitude = code & 7
    # 0 0.5 1 1.5 | 2 3 4 6
    low = magnitude.to(tl.float32) * 0.5
    exponent = (magnitude >> 1).to(tl.int32)
    fraction = 1.0 + 0.5 * (magnitude & 1).to(tl.float32)
    high = fraction * (1 << tl.maximum(exponent - 1, 0)).to(tl.float32)
    value = tl.where(magnitude < 4, low, high)
    return tl.where(code >= 8, -value, value)


@triton.jit
def _e4m3(bits):
    """The numbers of e4m3 bits (uint8), NaN aside: moved to where float32 has them."""
    bits = bits.to(tl.int32)
    moved = ((bits & 0x80) << 24) | ((bits & 0x7F) << 20)
    return moved.to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2^120, of the biases


@triton.jit
def scale_values(bits, KIND: tl.constexpr):
    """The float32 that the lowest bits of an int32 are as e8m0 (2^-127: 0), e4m3, bf16, ..."""
    if KIND == "e8m0":
        return ((bits & 0xFF) << 23).to(tl.float32, bitcast=True)
    elif KIND == "e4m3":
        return _e4m3(bits & 0xFF)
    elif KIND == "bf16":
        return (bits << 16).to(tl.float32, bitcast=True)
    elif KIND == "fp16":
        return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def _unpack_mxfp8(stored, scale, DTYPE: tl.constexpr):
    """``stored`` [N, K] uint8, the bits of e4m3, with float32 scales [N]."""
    return (_e4m3(stored) * scale[:, None]).to(DTYPE)


@triton.jit
def _join(first, second, third, fourth):
    """[N, 64] of the four runs [N, 16]; registers are renamed, nothing moves."""
    runs = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(tl.permute(runs, (0, 2, 3, 1)), (first.shape[0], 64))


@triton.jit
def _code(word, FORMAT: tl.constexpr, RUN: tl.constexpr):
    """The codes of one of the four runs, int32."""
    word = word.to(tl.int32) & 0xFFFF
    if FORMAT == "uint8":
        return (word >> (8 * (RUN % 2))) & 255
    if FORMAT != "mxfp4":
        return (word >> (4 * RUN)) & 15
    if RUN == 3:
        return ((word >> 8) & 12) | ((word >> 13) & 3)
    return ((word >> (12 - 3 * RUN)) & 8) | ((word >> (6 - 3 * RUN)) & 7)


@triton.jit
def unpack_run(
    word, scale, zero_point, FORMAT: tl.constexpr, DTYPE: tl.constexpr, RUN: tl.constexpr
):
    """One of the four runs as numbers; a float32 scale and zero point for each or for all."""
    code = _code(word, FORMAT, RUN)
    if FORMAT == "int4" or FORMAT == "uint8":
        value = code.to(tl.float32) - zero_point
    else:
        value = _e2m1(code)
    return (value * scale).to(DTYPE)


@triton.jit
def _run(word, scale, zero_point, FORMAT: tl.constexpr, DTYPE: tl.constexpr, RUN: tl.constexpr):
    return unpack_run(word, scale[:, None], zero_point[:, None], FORMAT, DTYPE, RUN)


@triton.jit
def _unpack_words(word, other, scales, zero_points, FORMAT: tl.constexpr, DTYPE: tl.constexpr):
    """Words [N, 16] int16 to [N, 64]; a float32 scale and zero point [N] for each run.

    ``other``: the words of the last two runs, if ``word`` has only the first two.
    """
    return _join(
        _run(word, scales[0], zero_points[0], FORMAT, DTYPE, 0),
        _run(word, scales[1], zero_points[1], FORMAT, DTYPE, 1),
        _run(other, scales[2], zero_points[2], FORMAT, DTYPE, 2),
        _run(other, scales[3], zero_points[3], FORMAT, DTYPE, 3),
    )


# Read as bfloat16, the lowest 8 bits are the number that they count times 2^-133, and the bits of
# an e2m1 are its number times 2^-126: denormal or not, the exponent begins where the mantissa ends.
# So codes need no more than a mask, and one fma takes their zero point off and scales them. Of what
# is missing then, scales have room for 2^62.
_CONSTANTS = {
    "one": 0x3F80,
    "sixteenth": 0x3D80,
    "raise": 0x5E80,  # 2^62
    "raise_sixteenth": 0x5C80,
    "less_8": 0x9D80,  # -8 * 2^(62 - 133)
    "less_128": 0x9F80,
    "minus_count": 0x8001,  # -2^-133
    "nothing": 0x8000,  # -0.0: a product with it added is a product
}


def _assembly(*runs: tuple[str, str], middle: str = "", zero_points: bool = False) -> tl.constexpr:
    """Inline assembly that leaves each of the four runs in $0 to $3.

    Operands: the outputs, word, other word, scales of the first and of the last two runs, zero
    points likewise. runs: what leaves the codes in t, and "_sixteenth" if as 16 times what they
    are. middle: what holds minus the zero point where ``zero_points`` are not given.
    """
    lines = [f"mov.b32 {name}, {value << 16 | value:#x};" for name, value in _CONSTANTS.items()]
    for run, (codes, part) in enumerate(runs):
        scale, zero_point = 6 + run // 2, 8 + run // 2
        offset = "nothing"
        lines.append(codes)
        if zero_points:
            unit = "sixteenth" if part else "one"
            lines.append(f"fma.rn.bf16x2 u, ${zero_point}, minus_count, nothing;")
            lines.append(f"fma.rn.bf16x2 t, t, {unit}, u;")
            part = ""
        elif middle:
            offset = "u"
            lines.append(f"fma.rn.bf16x2 u, ${scale}, {middle}, nothing;")
        lines.append(f"fma.rn.bf16x2 s, ${scale}, raise{part}, nothing;")
        lines.append(f"fma.rn.bf16x2 ${run}, t, s, {offset};")
    registers = f".reg .b32 s, t, u, {', '.join(_CONSTANTS)};"
    return tl.constexpr("{" + registers + "".join(lines) + "}")


_E2M1 = (
    ("and.b32 t, $4, 0x81C081C0;", ""),
    ("shl.b32 t, $4, 3; and.b32 t, t, 0x81C081C0;", ""),
    ("shl.b32 t, $4, 6; and.b32 t, t, 0x81C081C0;", ""),
    # Brought there by a product with 2^0 + 2^5 + 2^11.
    (
        "shr.b32 t, $4, 7; and.b32 t, t, 0x00D800D8;"
        "mul.lo.u32 t, t, 0x821; and.b32 t, t, 0x81C081C0;",
        "",
    ),
)
_NIBBLES = (
    ("and.b32 t, $4, 0x000F000F;", ""),
    ("and.b32 t, $4, 0x00F000F0;", "_sixteenth"),
    ("shr.b32 t, $4, 8; and.b32 t, t, 0x000F000F;", ""),
    ("shr.b32 t, $4, 8; and.b32 t, t, 0x00F000F0;", "_sixteenth"),
)
_BYTES = (
    ("and.b32 t, $4, 0x00FF00FF;", ""),
    ("prmt.b32 t, $4, 0, 0x4341;", ""),
    ("and.b32 t, $5, 0x00FF00FF;", ""),
    ("prmt.b32 t, $5, 0, 0x4341;", ""),
)
_MXFP4 = _assembly(*_E2M1)
_INT4 = _assembly(*_NIBBLES, middle="less_8")
_INT4_WITH_ZERO_POINTS = _assembly(*_NIBBLES, zero_points=True)
_UINT8 = _assembly(*_BYTES, middle="less_128")
_UINT8_WITH_ZERO_POINTS = _assembly(*_BYTES, zero_points=True)


_FOUR_INT32 = tl.constexpr((tl.int32,) * 4)
_FOUR_BF16 = tl.constexpr((tl.bfloat16,) * 4)


@triton.jit
def unpack_runs_bf16x2(
    word,
    other,
    scale,
    other_scale,
    zero_point,
    other_zero_point,
    FORMAT: tl.constexpr,
    HAS_ZERO_POINT: tl.constexpr,
    IN_PAIRS: tl.constexpr,
):
    """The four runs to bfloat16, two numbers at a time, on NVIDIA GPUs from 8.0 on.

    scale, zero_point: of the first two runs, as ``word``, bfloat16; ``other_...``: of the last two.
    Zero points are whole numbers; without any, they are not looked at. Numbers are less by a factor
    that their exponents have no room for: sums of products with them go through
    :func:`restored_sums`. IN_PAIRS: an int32 has two words, or two numbers; else words are int16.
    """
    NIBBLES: tl.constexpr = _INT4_WITH_ZERO_POINTS if HAS_ZERO_POINT else _INT4
    BYTES: tl.constexpr = _UINT8_WITH_ZERO_POINTS if HAS_ZERO_POINT else _UINT8
    ASSEMBLY: tl.constexpr = NIBBLES if FORMAT == "int4" else _MXFP4 if FORMAT == "mxfp4" else BYTES
    return tl.inline_asm_elementwise(
        ASSEMBLY,
        "=&r,=&r,=&r,=&r,r,r,r,r,r,r",
        [word, other, scale, other_scale, zero_point, other_zero_point],
        dtype=_FOUR_INT32 if IN_PAIRS else _FOUR_BF16,
        is_pure=True,
        pack=1 if IN_PAIRS else 2,
    )


_RAW_NIBBLES = tl.constexpr(
    "{ .reg .b32 t; and.b32 $0, $4, 0x000F000F; and.b32 $1, $4, 0x00F000F0;"
    "shr.b32 t, $4, 8; and.b32 $2, t, 0x000F000F; and.b32 $3, t, 0x00F000F0; }"
)
_RAW_BYTES = tl.constexpr(
    "{ and.b32 $0, $4, 0x00FF00FF; prmt.b32 $1, $4, 0, 0x4341;"
    "and.b32 $2, $5, 0x00FF00FF; prmt.b32 $3, $5, 0, 0x4341; }"
)


@triton.jit
def raw_runs(word, other, FORMAT: tl.constexpr):
    """The four runs' codes as they are, in the lowest bits of bfloat16, two to an int32 of words.

    Those are numbers: the codes times 2^-133, or 2^-129 int4's in runs 1 and 3. ``other``: as for
    :func:`unpack_runs_bf16x2`.
    """
    return tl.inline_asm_elementwise(
        _RAW_NIBBLES if FORMAT == "int4" else _RAW_BYTES,
        "=&r,=&r,=&r,=&r,r,r",
        [word, other],
        dtype=_FOUR_INT32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def restored_sums(sums, FORMAT: tl.constexpr):
    """``sums`` of products with what :func:`unpack_runs_bf16x2` gives, times what that lacks."""
    if FORMAT == "mxfp4":
        return sums * 18446744073709551616.0  # 2^(126 - 62)
    else:
        return sums * 2361183241434822606848.0  # 2^(133 - 62)


@triton.jit
def _along_row(x, word):
    """A number for each row of ``word`` [N, 16], as bfloat16, for all of its columns."""
    return tl.broadcast_to(x.to(tl.bfloat16)[:, None], word.shape)


@triton.jit
def unpack_words_bf16x2(
    word, other, scales, zero_points, FORMAT: tl.constexpr, HAS_ZERO_POINT: tl.constexpr
):
    """As :func:`_unpack_words`, where the first two runs share a scale, and the last two.

    See :func:`unpack_runs_bf16x2`.
    """
    first, second, third, fourth = unpack_runs_bf16x2(
        word,
        other,
        _along_row(scales[0], word),
        _along_row(scales[2], word),
        _along_row(zero_points[0], word),
        _along_row(zero_points[2], word),
        FORMAT,
        HAS_ZERO_POINT,
        False,
    )
    return _join(first, second, third, fourth)


@triton.jit
def unpack_tile(first, b, other, units, weight_scales, num_groups, S: tl.constexpr):
    """The weights [block_n, block_k] of the columns from ``first`` on, as numbers.

    b, other: as stored. units: of scales and zero points, if one holds for all columns of an
    iteration. weight_scales: where they are. S: a
    :class:`moe_kernels.ops.quantized_sums.QuantizedSettings`.
    """
    b_scale_ptr, zero_point_ptr, scale_units, stride_bsg = weight_scales
    packed_scales, packed_zero_points = units
    MIDDLE: tl.constexpr = 8.0 if S.format == "int4" else 128.0
    scales = ()
    zero_points = ()
    for part_k in tl.static_range(S.scales_per_block):
        group = (first + part_k * (S.block_k // S.scales_per_block)) // S.group
        if S.mask_k:
            group = tl.minimum(group, num_groups - 1)
        if not S.one_unit:
            unit = group // S.per_unit * stride_bsg
            packed_scales = tl.load(b_scale_ptr + scale_units + unit)
            if S.has_zero_point:
                packed_zero_points = tl.load(zero_point_ptr + scale_units + unit)
        shift = group % S.per_unit * (32 // S.per_unit)
        scale = scale_values(packed_scales >> shift, S.scale)
        if S.has_zero_point:
            zero_point = scale_values(packed_zero_points >> shift, S.scale)
        else:
            zero_point = tl.full((S.block_n,), MIDDLE, tl.float32)
        for _ in tl.static_range(4 // S.scales_per_block):
            scales = scales + (scale,)  # type: ignore[assignment] # noqa: RUF005
            zero_points = zero_points + (zero_point,)  # type: ignore[assignment] # noqa: RUF005
    if S.packed_arithmetic:
        weight = unpack_words_bf16x2(b, other, scales, zero_points, S.format, S.has_zero_point)
    elif S.words:
        weight = _unpack_words(b, other, scales, zero_points, S.format, S.dtype)
    else:
        weight = _unpack_mxfp8(b, scale, S.dtype)
    return weight
