"""FP8 (e4m3) quantization with one scale per tensor, channel, token, block or group.

Tensors are quantized over their last two dimensions (rows, columns), the leading ones are a
batch: weights [E, N, K] get scales per expert. Values are divided by their scale, clamped to
the dtype's range and rounded to nearest even.
"""

from __future__ import annotations

import torch

from moe_kernels.quantization.quotient import quotient
from moe_rules.vocabulary.quant_keys import CHANNEL, TENSOR, TOKEN

MIN_AMAX = 1e-10
"""Absolute maxima below this count as this, so that all-zero groups have a usable scale."""
MIN_SCALE = torch.finfo(torch.float32).tiny
"""The smallest scale that has a reciprocal: 0 over 0 would be no number."""


def _group(shape: torch.Size, group_shape: tuple[int, int]) -> tuple[int, int]:
    """``group_shape`` with -1 resolved; CHANNEL is one scale per row of a [N, K] weight."""
    rows, columns = TOKEN if group_shape == CHANNEL else group_shape
    return rows if rows > 0 else shape[-2], columns if columns > 0 else shape[-1]


def expand_scale(
    scale: torch.Tensor, group_shape: tuple[int, int], shape: torch.Size
) -> torch.Tensor:
    """``scale`` as something that broadcasts against a tensor of ``shape`` [..., N, K].

    Scales as :class:`moe_kernels.quant_config.FusedMoEQuantConfig` has them: [...] for one per
    tensor, [..., N, 1] per channel or token, [..., ceil(N / r), ceil(K / c)] for groups (r, c).
    """
    if group_shape == TENSOR:
        return scale.reshape(*shape[:-2], 1, 1) if scale.numel() > 1 else scale
    if group_shape in (TOKEN, CHANNEL):
        return scale.reshape(*shape[:-1], 1)
    rows, columns = _group(shape, group_shape)
    scale = scale.repeat_interleave(columns, -1)[..., : shape[-1]]
    return scale.repeat_interleave(rows, -2)[..., : shape[-2], :]


def amax_scale(
    x: torch.Tensor, group_shape: tuple[int, int], dtype: torch.dtype = torch.float8_e4m3fn
) -> torch.Tensor:
    """The float32 scales that map the largest magnitude of each group to the largest of ``dtype``.

    x: [..., N, K]. Returns [...] (at least one element) per tensor, [..., N, 1] per channel or
    token, [..., ceil(N / r), ceil(K / c)] for groups (r, c).
    """
    n, k = x.shape[-2:]
    if group_shape == TENSOR and n * k == 0:
        return x.new_ones(x.shape[:-2] or (1,), dtype=torch.float32)
    rows, columns = _group(x.shape, group_shape)
    magnitude = torch.nn.functional.pad(x.abs().float(), (0, -k % columns, 0, -n % rows))
    groups = (-(-n // rows), rows, -(-k // columns), columns)
    amax = magnitude.reshape(*x.shape[:-2], *groups).amax(dim=(-3, -1))
    scale = quotient(amax.clamp(min=MIN_AMAX), torch.finfo(dtype).max)
    return scale.reshape(x.shape[:-2] or (1,)) if group_shape == TENSOR else scale


def quantize(
    x: torch.Tensor,
    group_shape: tuple[int, int],
    scale: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize ``x`` [..., N, K]; the scales are computed from the values unless given.

    Returns the values as ``dtype`` and the float32 scales. Scales that are given divide as
    MIN_SCALE where they are nearer to 0.
    """
    if scale is None:
        scale = amax_scale(x, group_shape, dtype)
    limit = torch.finfo(dtype).max
    divisor = torch.where(scale.abs() < MIN_SCALE, MIN_SCALE, scale)
    scaled = x.float() / expand_scale(divisor, group_shape, x.shape)
    return scaled.clamp(-limit, limit).to(dtype), scale


def widen_e4m3(x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """``x`` (float8_e4m3fn) times 2^-120, as float32; NaN becomes 480 * 2^-120.

    The bits of an e4m3 number, moved to where float32 has them, are this number: the exponent's
    bias is 7 in one and 127 in the other. On a CPU this is an order of magnitude faster than
    torch's conversion, which is scalar. ``out``: float32, of the shape of ``x``.
    """
    bits = torch.empty_like(x, dtype=torch.int32) if out is None else out.view(torch.int32)
    bits.copy_(x.view(torch.int8))
    # int32 of 0x87f00000: the sign, then the last 4 bits of the exponent and 3 of the mantissa.
    bits.bitwise_left_shift_(20).bitwise_and_(0x87F00000 - (1 << 32))
    return bits.view(torch.float32)


def dequantize(
    quantized: torch.Tensor,
    scale: torch.Tensor,
    group_shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """``quantized * scale`` as ``dtype``, multiplied in float32 or wider. Shape [..., N, K].

    ``quantized`` is FP8, or anything that has been widened already.
    """
    wide = torch.promote_types(dtype, torch.float32)
    values = quantized.to(wide, memory_format=torch.contiguous_format, copy=True)
    return scale_in_place(values, scale, group_shape).to(dtype)


def scale_in_place(
    values: torch.Tensor, scale: torch.Tensor, group_shape: tuple[int, int]
) -> torch.Tensor:
    """Multiply ``values`` [..., N, K], contiguous, by ``scale``; returns them."""
    rows, columns = group_shape
    n, k = values.shape[-2:]
    scale = scale.to(values.dtype)
    if rows > 0 and columns > 0 and group_shape != CHANNEL and n % rows == k % columns == 0:
        # Blocks that tile the tensor broadcast without expanding the scales.
        blocks = values.view(*values.shape[:-2], n // rows, rows, k // columns, columns)
        blocks.mul_(scale[..., :, None, :, None])
        return values
    return values.mul_(expand_scale(scale, group_shape, values.shape))
