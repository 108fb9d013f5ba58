"""Integers of 4, 6 and 8 bits in bytes and words, as checkpoints pack them.

``values`` are codes without sign: stored integers plus their bias, or the bits of a minifloat.

- nibbles: two 4-bit codes to a uint8 along the last dimension, the first in the low half. The
  bytes of the words below on a little-endian machine are these. MXFP4, NVFP4, and compressed-
  tensors' int4 use it.
- sextets: four 6-bit codes to three uint8, the first in the lowest bits.
- words: 32 / bits codes to an int32 along one dimension, the first in the lowest bits (GPTQ).
- AWQ words: eight 4-bit codes to an int32 along the last dimension, in the order AWQ_ORDER.
"""

from __future__ import annotations

import torch

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbours AutoAWQ puts in each 4 bits of a word, lowest bits first."""


def _require_multiple(size: int, multiple: int, what: str) -> None:
    if size % multiple:
        raise ValueError(f"{what} needs a multiple of {multiple} values, got {size}")


def pack_nibbles(values: torch.Tensor) -> torch.Tensor:
    """4-bit codes [..., K] (uint8) as [..., K / 2]. Raises ValueError for an odd K."""
    _require_multiple(values.shape[-1], 2, "packing two to a byte")
    return values[..., ::2] | values[..., 1::2] << 4


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Undo :func:`pack_nibbles`: uint8 [..., K / 2] as [..., K]."""
    return torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(-2)


def pack_sextets(values: torch.Tensor) -> torch.Tensor:
    """6-bit codes [..., K] (uint8) as [..., 3 K / 4]. Raises ValueError unless K is 4 n."""
    _require_multiple(values.shape[-1], 4, "packing four to three bytes")
    a, b, c, d = (values[..., i::4] for i in range(4))
    packed = torch.stack([a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2], dim=-1)
    return packed.flatten(-2)


def unpack_sextets(packed: torch.Tensor) -> torch.Tensor:
    """Undo :func:`pack_sextets`: uint8 [..., 3 K / 4] as [..., K]."""
    x, y, z = (packed[..., i::3] for i in range(3))
    values = torch.stack([x, x >> 6 | y << 2, y >> 4 | z << 4, z >> 2], dim=-1)
    return values.flatten(-2) & 0x3F


def pack_words(values: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Codes of ``bits`` bits (4 or 8) as int32, 32 / bits fewer along ``dim``.

    Raises ValueError if ``dim`` is no multiple of that.
    """
    per_word = 32 // bits
    _require_multiple(values.shape[dim], per_word, f"packing {per_word} to a word")
    lanes = values.movedim(dim, -1)
    lanes = lanes.reshape(*lanes.shape[:-1], -1, per_word).to(torch.int64)
    shifts = torch.arange(0, 32, bits, device=values.device)
    words = (lanes << shifts).sum(dim=-1)
    # Words from 2^31 on are negative as int32.
    words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    return words.movedim(-1, dim).contiguous()


def unpack_words(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Undo :func:`pack_words`: int32 as uint8 codes, 32 / bits times as many along ``dim``."""
    shifts = torch.arange(0, 32, bits, device=packed.device, dtype=torch.int32)
    lanes: torch.Tensor = packed.movedim(dim, -1)[..., None] >> shifts & 2**bits - 1
    return lanes.flatten(-2).to(torch.uint8).movedim(-1, dim).contiguous()


def pack_awq(values: torch.Tensor) -> torch.Tensor:
    """4-bit codes [..., N] as AutoAWQ's int32 [..., N / 8]. Raises ValueError unless N is 8 n."""
    _require_multiple(values.shape[-1], 8, "packing eight to a word")
    lanes = values.reshape(*values.shape[:-1], -1, 8)[..., list(AWQ_ORDER)]
    return pack_words(lanes.flatten(-2), 4, -1)


def unpack_awq(packed: torch.Tensor) -> torch.Tensor:
    """Undo :func:`pack_awq`: int32 [..., N / 8] as uint8 [..., N]."""
    lanes = unpack_words(packed, 4, -1).reshape(*packed.shape, 8)
    inverse = sorted(range(8), key=AWQ_ORDER.__getitem__)
    return lanes[..., inverse].flatten(-2)
