"""Converted weights as values again, whatever layout a kernel has them in."""

import torch
from moe_kernels.cpu.packed_weights import PackedInt8, Tokens
from moe_kernels.quantization.packing import pack_nibbles
from moe_kernels.quantization.schemes import (
    QuantizedWeight,
    dequantize_weight,
    quantization_format,
)
from moe_kernels.quantization.words import WORD_FORMATS, from_words
from moe_kernels.registry import unpacks_in_triton

GROUPS = {"mxfp4": 32, "mxfp8": 32, "nvfp4": 16}
"""Columns that share a scale, in formats whose last unit of scales may not be full."""


def values(weights, name, kernel=None, dtype=torch.float32):
    """w13 or w2 of ``weights`` as float64 [E, N, K], of a layer in ``dtype`` with a gate.

    ``kernel``: for which they were converted; None: as a checkpoint or its rows have them.
    """
    stored, key = getattr(weights, name), weights.weight_key
    columns = weights.w2.shape[1] if name == "w13" else weights.w13.shape[1] // 2
    if weights.packed is not None:
        return _multiplied(getattr(weights.packed, name), stored.shape[0], columns, dtype)
    if key is None:
        return stored.double()
    scale, zeros, scale_2 = (
        getattr(weights, name + part) for part in ("_scale", "_zp", "_scale_2")
    )
    if kernel is not None and unpacks_in_triton(kernel):
        fmt = quantization_format(key)
        if fmt in WORD_FORMATS:
            codes = from_words(stored, fmt, columns)
            stored = codes if fmt == "uint8" else pack_nibbles(codes)
        scale, zeros = (_of_units(groups, fmt, columns) for groups in (scale, zeros))
    weight = QuantizedWeight(stored, scale, zeros, scale_2)
    return dequantize_weight(weight, key, torch.float64)


def _of_units(groups, fmt, columns):
    """[E, units, N, groups of a unit] as [E, N, groups], without what fills the last unit."""
    if groups is None:
        return None
    rows = groups.transpose(1, 2).flatten(2)
    return rows[..., : columns // GROUPS[fmt]] if fmt in GROUPS else rows


def _multiplied(product, num_experts, columns, dtype):
    """What packed weights make of unit vectors."""
    if isinstance(product, PackedInt8):
        units = torch.eye(columns, dtype=torch.int32).add(128).to(torch.uint8)
        tokens = Tokens(units, torch.ones(columns, 1))
    else:
        tokens = Tokens(torch.eye(columns, dtype=dtype))
    outputs = [product.apply(tokens, expert, None).T for expert in range(num_experts)]
    return torch.stack(outputs).double()
