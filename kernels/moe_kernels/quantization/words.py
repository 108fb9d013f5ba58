"""4-bit codes in 16-bit words, in the order in which the Triton kernels unpack them.

Columns come in blocks of 64, the last one filled up with zeros. Word j of a block holds its columns
j, 16 + j, 32 + j and 48 + j, so that the words of 16 neighbours become four runs of neighbours,
each by one shift and one mask of two words at a time. Where its bits are depends on the format:

- nibbles: column 16 q + j in bits 4 q to 4 q + 3
- e2m1 (MXFP4): sign and magnitude of the first three where a shift by 0, 3 and 6 brings them to
  the bits that bfloat16 has them in (15, and 8 to 6), those of the last one in the bits left over,
  so that one shift and one product bring them there

Words are stored as bytes, little-endian: [..., N, 64 ceil(K / 64) / 2] uint8.
"""

from __future__ import annotations

import torch

from moe_kernels.quantization.packing import unpack_nibbles

WORD_FORMATS = ("int4", "mxfp4", "nvfp4")
"""The formats of 4-bit codes; those of 8 bits stay in bytes."""
BLOCK = 64
"""Columns that share 16 words."""
_RUN = 16
_E2M1_BITS = ((6, 7, 8, 15), (3, 4, 5, 12), (0, 1, 2, 9), (13, 14, 10, 11))
"""Where the four bits of each of a word's columns are, lowest first."""
_NIBBLE_BITS = tuple(tuple(range(4 * q, 4 * q + 4)) for q in range(4))


def word_columns(columns: int) -> int:
    """How many bytes hold the words of so many columns."""
    return -(-columns // BLOCK) * BLOCK // 2


def _bits(fmt: str) -> tuple[tuple[int, ...], ...]:
    return _E2M1_BITS if fmt == "mxfp4" else _NIBBLE_BITS


def to_words(nibbles: torch.Tensor, fmt: str) -> torch.Tensor:
    """Codes packed two to a byte, uint8 [E, N, K / 2], as the words of format ``fmt``."""
    num_experts, rows, half = nibbles.shape
    words = nibbles.new_zeros(num_experts, rows, word_columns(2 * half))
    for expert in range(num_experts):  # one at a time, for what lies unpacked in between
        codes = unpack_nibbles(nibbles[expert])
        codes = torch.nn.functional.pad(codes, (0, 2 * words.shape[2] - 2 * half))
        runs = codes.view(rows, -1, 4, _RUN).to(torch.int32)
        word = torch.zeros_like(runs[:, :, 0])
        for q, places in enumerate(_bits(fmt)):
            for bit, place in enumerate(places):
                word |= (runs[:, :, q] >> bit & 1) << place
        low_first = torch.stack([word & 0xFF, word >> 8], dim=-1)
        words[expert] = low_first.to(torch.uint8).view(rows, -1)
    return words


def from_words(words: torch.Tensor, fmt: str, columns: int) -> torch.Tensor:
    """Undo :func:`to_words`: the codes [E, N, columns], uint8, one to a byte."""
    num_experts, rows, width = words.shape
    pairs = words.view(num_experts, rows, width // 2, 2).to(torch.int32)
    word = (pairs[..., 0] | pairs[..., 1] << 8).view(num_experts, rows, -1, _RUN)
    runs = []
    for places in _bits(fmt):
        code = torch.zeros_like(word)
        for bit, place in enumerate(places):
            code |= (word >> place & 1) << bit
        runs.append(code)
    codes = torch.stack(runs, dim=3).view(num_experts, rows, -1)
    return codes[..., :columns].to(torch.uint8)
