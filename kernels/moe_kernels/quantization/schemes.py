"""Quantization by key: weights of every scheme to and from values, activations to their grid.

What :class:`moe_rules.vocabulary.quant_keys.QuantKey` says in general is here one of a few formats:

==========  ==============================  ==========================  =========================
format      values [..., N, K]              scale                       also
==========  ==============================  ==========================  =========================
fp8         float8_e4m3fn                   float32 by group shape
int8        int8, less zero point           tensor, channel or groups   int8 zero point, or none
uint8       uint8, less 128 or zero point   floating [..., N, K / g]    zero point, the same shape
int4        nibbles [..., N, K / 2], less   floating [..., N, K / g]    zero point, the same shape
            8 or zero point
mxfp8       float8_e4m3fn                   e8m0 [..., N, K / 32]
mxfp6_...   sextets [..., N, 3 K / 4]       e8m0 [..., N, K / 32]
mxfp4       nibbles [..., N, K / 2]         e8m0 [..., N, K / 32]
nvfp4       nibbles [..., N, K / 2]         e4m3 [..., N, K / 16]       second scale, float32,
                                                                        [...] or [..., N, 1]
==========  ==============================  ==========================  =========================

e8m0 is uint8. One group may span all of K: then K / g is 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from moe_kernels.quantization import fp8
from moe_kernels.quantization.integers import quantize_integer
from moe_kernels.quantization.microscaling import (
    MX_GROUP,
    NVFP4_GROUP,
    decode_e8m0,
    expand_groups,
    mx_scale,
    nvfp4_scale,
    nvfp4_scale_2,
    round_mx,
    round_nvfp4,
)
from moe_kernels.quantization.minifloat import E2M1, MINIFLOATS, decode, encode
from moe_kernels.quantization.packing import (
    pack_nibbles,
    pack_sextets,
    unpack_nibbles,
    unpack_sextets,
)
from moe_rules.vocabulary.quant_keys import TENSOR, TOKEN, QuantKey

_SCALE_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

_INTEGERS = {
    "int8": ("int8", True),
    "uint8b128": ("uint8", True),
    "uint4b8": ("int4", True),
    "uint4": ("int4", False),
}
"""Value dtypes of integer weights: their format, and whether zero points are implied."""

_FLOATS = {
    ("fp8_e4m3", "fp32"): "fp8",
    ("fp8_e4m3", "uint8"): "mxfp8",
    ("float6_e3m2f", "uint8"): "mxfp6_e3m2",
    ("float6_e2m3f", "uint8"): "mxfp6_e2m3",
    ("uint8", "uint8"): "mxfp4",
    ("uint8", "fp8_e4m3"): "nvfp4",
}
"""Formats of other value dtypes, by value and scale dtype."""

_ELEMENTS = {
    "mxfp8": "e4m3",
    "mxfp6_e3m2": "e3m2",
    "mxfp6_e2m3": "e2m3",
    "mxfp4": "e2m1",
}


class QuantizedWeight(NamedTuple):
    """Weights [..., N, K] in their format, with what turns them into values."""

    values: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None = None
    scale_2: torch.Tensor | None = None


def quantization_format(key: QuantKey) -> str:
    """The format of ``key`` (the table above). Raises ValueError for a key that has none here."""
    if key.dtype in _INTEGERS:
        return _INTEGERS[key.dtype][0]
    found = _FLOATS.get((key.dtype, key.scale.dtype))
    if found is None or (found == "nvfp4") != (key.scale2 is not None):
        raise ValueError(
            f"no format for quantization {key}: values are {key.dtype}, scales {key.scale.dtype}"
        )
    return found


def packing_ratio(fmt: str) -> tuple[int, int]:
    """(weights, columns) such that so many columns of values in format ``fmt`` hold the weights."""
    if fmt in ("int4", "mxfp4", "nvfp4"):
        return 2, 1
    return (4, 3) if fmt.startswith("mxfp6") else (1, 1)


def quantize_weight(
    w: torch.Tensor, key: QuantKey, group_size: int | None = None
) -> QuantizedWeight:
    """Quantize ``w`` [..., N, K] as ``key`` says, scales taken from its values.

    ``group_size``: of integer keys whose own group shape is a whole row; -1 or None keep that.
    Raises ValueError for a key without a format, or a K that the format does not divide.
    """
    fmt, shape = quantization_format(key), key.scale.group_shape
    if fmt == "fp8":
        return QuantizedWeight(*fp8.quantize(w, shape))
    if fmt in ("int8", "uint8", "int4"):
        if group_size is not None and group_size > 0 and shape == TOKEN:
            shape = (1, group_size)
        values, scale, zero_point = quantize_integer(
            w,
            4 if fmt == "int4" else 8,
            shape,
            symmetric=key.symmetric,
            scale_dtype=_SCALE_DTYPES[key.scale.dtype],
        )
        if fmt == "int8" and zero_point is not None:
            values, zero_point = (
                (t.to(torch.int16) - 128).to(torch.int8) for t in (values, zero_point)
            )
        elif fmt != "int8" and key.symmetric:
            values = (values.to(torch.int16) + (8 if fmt == "int4" else 128)).to(torch.uint8)
        return QuantizedWeight(pack_nibbles(values) if fmt == "int4" else values, scale, zero_point)
    if fmt == "nvfp4":
        scale_2 = nvfp4_scale_2(w)
        scale = nvfp4_scale(w, scale_2[..., None, None])
        rounded = round_nvfp4(w, scale, scale_2[..., None, None])
        return QuantizedWeight(pack_nibbles(encode(rounded, E2M1)), scale, None, scale_2)
    rounded, scale = quantize_mx(w, fmt)
    if fmt == "mxfp8":
        return QuantizedWeight(rounded.to(torch.float8_e4m3fn), scale)
    codes = encode(rounded, MINIFLOATS[_ELEMENTS[fmt]])
    return QuantizedWeight(pack_nibbles(codes) if fmt == "mxfp4" else pack_sextets(codes), scale)


def dequantize_weight(
    weight: QuantizedWeight, key: QuantKey, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """The values [..., N, K] of ``weight`` as ``dtype``, multiplied in float32 or wider.

    Raises ValueError for a key without a format.
    """
    return dequantize_format(weight, quantization_format(key), key.scale.group_shape, dtype)


def dequantize_format(
    weight: QuantizedWeight, fmt: str, group_shape: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """:func:`dequantize_weight` for a format, and the group shape of the scales."""
    values, scale, zero_point, scale_2 = weight
    if fmt == "fp8":
        return fp8.dequantize(values, scale, group_shape, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    if fmt in ("int8", "uint8", "int4"):
        stored = (unpack_nibbles(values) if fmt == "int4" else values).to(wide)
        columns = stored.shape[-1]
        if group_shape == TENSOR:
            shape = (*scale.shape[: values.dim() - 2], 1, 1)
            scale = scale.reshape(shape)
            zero_point = None if zero_point is None else zero_point.reshape(shape)
        if zero_point is not None:
            stored = stored - expand_groups(zero_point, columns).to(wide)
        elif fmt != "int8":
            stored = stored - (8 if fmt == "int4" else 128)
        return (stored * expand_groups(scale, columns).to(wide)).to(dtype)
    if fmt == "mxfp8":
        elements = values.to(wide)
    elif fmt in ("mxfp4", "nvfp4"):
        elements = decode(unpack_nibbles(values), E2M1).to(wide)
    else:
        elements = decode(unpack_sextets(values), MINIFLOATS[_ELEMENTS[fmt]]).to(wide)
    wide_scale = (scale if fmt == "nvfp4" else decode_e8m0(scale)).to(wide)
    group = NVFP4_GROUP if fmt == "nvfp4" else MX_GROUP
    result = elements * expand_groups(wide_scale, elements.shape[-1], group)
    if scale_2 is not None:
        second = scale_2 if scale_2.dim() == values.dim() else scale_2[..., None, None]
        result = result * second.to(wide)
    return result.to(dtype)


def fake_quantize(
    x: torch.Tensor,
    fmt: str,
    group_shape: tuple[int, int],
    scale: torch.Tensor | None = None,
    scale_2: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """``x`` [M, K] rounded to the grid of ``fmt``, as ``dtype``. Quantized symmetrically.

    ``group_shape``: that of the scales (of fp8, and of int8: TENSOR or TOKEN). ``scale``: one
    float32 element for static fp8 scales, else taken from the values. ``scale_2``: one float32
    element, of nvfp4. Raises ValueError for a format that activations do not have here.
    """
    wide = torch.promote_types(dtype, torch.float32)
    if fmt == "fp8" and group_shape != TENSOR:
        return fp8.dequantize(*fp8.quantize(x, group_shape, scale), group_shape, dtype)
    if fmt == "int8" and scale is None:
        stored, scale = quantize_int8(x, group_shape)
        return (stored.to(wide) * scale.to(wide)).to(dtype)
    values, factor = round_to_grid(x, fmt, group_shape, scale, scale_2)
    return (values.to(wide) * factor.to(wide)).to(dtype)


def round_to_grid(
    x: torch.Tensor,
    fmt: str,
    group_shape: tuple[int, int],
    scale: torch.Tensor | None,
    scale_2: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`fake_quantize` as values that bf16 and fp16 hold exactly, and one factor.

    That is: all but the scale of the whole tensor. Returns float32 [M, K] and [1]. Raises
    ValueError for a format that has more bits, or that activations do not have here.
    """
    if fmt == "fp8" and group_shape == TENSOR:
        quantized, scale = fp8.quantize(x, TENSOR, scale)
        return quantized.float(), scale.reshape(1)
    if fmt == "nvfp4" and scale_2 is not None:
        scales = nvfp4_scale(x, scale_2)
        factors = expand_groups(scales.float(), x.shape[-1], NVFP4_GROUP)
        return round_nvfp4(x, scales, scale_2) * factors, scale_2.float().reshape(1)
    if fmt in _ELEMENTS:
        rounded, scales = quantize_mx(x, fmt)
        factors = expand_groups(decode_e8m0(scales), x.shape[-1], MX_GROUP)
        return rounded * factors, x.new_ones(1, dtype=torch.float32)
    raise ValueError(f"activations are not quantized to {fmt} {group_shape} here")


def quantize_mx(x: torch.Tensor, fmt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Elements (as float32 numbers) and e8m0 scales of ``x`` [..., K] in an MX format.

    Scales are rounded as those who run the formats do: MXFP8's so that nothing saturates, the
    others' to even.
    """
    element = _ELEMENTS[fmt]
    scale = mx_scale(x, element, "ceil" if fmt == "mxfp8" else "even")
    return round_mx(x, scale, element), scale


def quantize_int8(
    x: torch.Tensor, group_shape: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` [M, K] as int8, and float32 scales: [1] (TENSOR) or [M, 1] (TOKEN)."""
    if x.numel() == 0:
        shape = (1,) if group_shape == TENSOR else (x.shape[0], 1)
        return x.to(torch.int8), x.new_ones(shape, dtype=torch.float32)
    stored, scale, _ = quantize_integer(x, 8, group_shape)
    return stored, scale
