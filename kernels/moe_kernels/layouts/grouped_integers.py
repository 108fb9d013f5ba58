"""INT4 and INT8 weights in groups: from how checkpoints pack them to nibbles or bytes by row.

Kernels take uint8 [E, N, K / 2] (int4) or [E, N, K], scales and zero points [E, N, K / g], zero
points unpacked. Checkpoints have, with 32-bit words of eight 4-bit or four 8-bit codes:

- compressed_tensors: words along K [E, N, K / 8]; zero points in words along N [E, N / 8, K / g]
- moe_wna16: nibbles [E, N, K / 2]; zero points in nibbles along N, [E, N / 2, K / g]
- auto_gptq: words along K, transposed [E, K / 8, N]; scales [E, K / g, N]; zero points less one
  in words along N, [E, K / g, N / 8]
- auto_awq: words along N in AutoAWQ's order [E, K, N / 8]; scales [E, K / g, N]; zero points
  likewise, [E, K / g, N / 8]
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from moe_kernels.layouts.weights import LayerWeights
from moe_kernels.quantization.packing import (
    pack_nibbles,
    unpack_awq,
    unpack_nibbles,
    unpack_words,
)
from moe_kernels.quantization.schemes import quantization_format
from moe_rules.vocabulary.quant_keys import QuantKey

CheckpointFormat = Literal["compressed_tensors", "moe_wna16", "auto_gptq", "auto_awq"]
_DTYPES = {
    "compressed_tensors": torch.int32,
    "moe_wna16": torch.uint8,
    "auto_gptq": torch.int32,
    "auto_awq": torch.int32,
}


class _Codes(NamedTuple):
    """One weight unpacked: codes [E, N, K], scale and zero point [E, N, K / g]."""

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None


def _unpack(
    w: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    bits: int,
    checkpoint_format: CheckpointFormat,
) -> _Codes:
    if w.dtype != _DTYPES[checkpoint_format]:
        raise ValueError(
            f"weights of {checkpoint_format} are {_DTYPES[checkpoint_format]}, got {w.dtype}"
        )
    zeros = zero_point
    if checkpoint_format == "compressed_tensors":
        codes = unpack_words(w, bits, 2)
        zeros = None if zeros is None else unpack_words(zeros, bits, 1)
    elif checkpoint_format == "moe_wna16":
        codes = unpack_nibbles(w) if bits == 4 else w
        if zeros is not None and bits == 4:
            zeros = unpack_nibbles(zeros.transpose(1, 2)).transpose(1, 2)
    elif checkpoint_format == "auto_gptq":
        codes, scale = unpack_words(w, bits, 1).transpose(1, 2), scale.transpose(1, 2)
        if zeros is not None:
            # Stored less one, in as many bits: 0 is stored as all ones.
            stored = unpack_words(zeros, bits, 2)
            zeros = ((stored.to(torch.int16) + 1) & 2**bits - 1).to(torch.uint8).transpose(1, 2)
    else:
        codes, scale = unpack_awq(w).transpose(1, 2), scale.transpose(1, 2)
        zeros = None if zeros is None else unpack_awq(zeros).transpose(1, 2)
    if zeros is not None:
        zeros = zeros.contiguous()
    return _Codes(codes.contiguous(), scale.contiguous(), zeros)


def _both(
    weights: LayerWeights, key: QuantKey, checkpoint_format: CheckpointFormat
) -> tuple[_Codes, _Codes]:
    if checkpoint_format not in _DTYPES:
        raise ValueError(
            f"unknown checkpoint format {checkpoint_format!r}; expected one of {', '.join(_DTYPES)}"
        )
    bits = 4 if quantization_format(key) == "int4" else 8
    if checkpoint_format == "auto_awq" and bits != 4:
        raise ValueError(f"AutoAWQ packs 4 bits, the key is {key}")
    w13_scale, w2_scale = weights.required_scales()
    # Checkpoints of symmetric weights may have zero points, all in the middle.
    w13_zp, w2_zp = (None, None) if key.symmetric else (weights.w13_zp, weights.w2_zp)
    if not key.symmetric and (w13_zp is None or w2_zp is None):
        raise ValueError(f"weights quantized as {key} need w13_zp and w2_zp, got None")
    return (
        _unpack(weights.w13, w13_scale, w13_zp, bits, checkpoint_format),
        _unpack(weights.w2, w2_scale, w2_zp, bits, checkpoint_format),
    )


def rows_of_groups(
    weights: LayerWeights, key: QuantKey, checkpoint_format: CheckpointFormat
) -> LayerWeights:
    """What kernels take, from any of the checkpoints' layouts.

    Raises ValueError for columns ordered by activation, for weights in another dtype than the
    layout's, and an unknown layout.
    """
    if weights.w13_g_idx is not None or weights.w2_g_idx is not None:
        raise ValueError(
            "columns are ordered by activation (g_idx), and only Int4EmulationTritonExperts, "
            "whose weights are dequantized when loaded, takes those"
        )
    w13, w2 = _both(weights, key, checkpoint_format)
    packed = quantization_format(key) == "int4"
    return weights._replace(
        w13=pack_nibbles(w13.codes) if packed else w13.codes,
        w2=pack_nibbles(w2.codes) if packed else w2.codes,
        w13_scale=w13.scale,
        w2_scale=w2.scale,
        w13_zp=w13.zero_point,
        w2_zp=w2.zero_point,
    )


def dequantized(
    weights: LayerWeights,
    key: QuantKey,
    checkpoint_format: CheckpointFormat,
    dtype: torch.dtype,
) -> LayerWeights:
    """Unquantized weights, rounded to ``dtype``, from any of the checkpoints' layouts.

    Raises ValueError as :func:`rows_of_groups`, but takes columns ordered by activation.
    """
    bits = 4 if quantization_format(key) == "int4" else 8

    def values(codes: _Codes, g_idx: torch.Tensor | None) -> torch.Tensor:
        stored, scale, zero_point = codes
        num_experts, rows, columns = stored.shape
        if g_idx is None:
            group = torch.arange(columns, device=stored.device) // (columns // scale.shape[2])
            g_idx = group.expand(num_experts, columns)
        index = g_idx.long()[:, None].expand(num_experts, rows, columns)
        zeros = 2.0 ** (bits - 1) if zero_point is None else zero_point.gather(2, index).float()
        return ((stored.float() - zeros) * scale.float().gather(2, index)).to(dtype)

    w13, w2 = _both(weights, key, checkpoint_format)
    return LayerWeights(values(w13, weights.w13_g_idx), values(w2, weights.w2_g_idx))
