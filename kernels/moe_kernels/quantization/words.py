"""Codes in 16-bit words, in the order in which the Triton kernels unpack them.

Columns come in blocks of 64, the last one filled up with zeros. A block is four runs of 16
neighbours; word j of 16 has column j of several runs, so that each run is one shift and one mask of
two words at a time. Where its bits are depends on the format:

- nibbles: one word for all four runs, that of run q in bits 4 q to 4 q + 3
- e2m1 (MXFP4): likewise, sign and magnitude of the first three where a shift by 0, 3 and 6 brings
  them to the bits that bfloat16 has them in (15, and 8 to 6), those of the last one in the bits
  left over, so that one shift and one product bring them there
- bytes: 16 words for the first two runs, in the low and in the high bytes, 16 for the others

Words are stored as bytes, little-endian: [..., N, a multiple of 32 or 64] uint8.
"""

from __future__ import annotations

import torch

from moe_kernels.quantization.packing import unpack_nibbles

WORD_FORMATS = ("int4", "mxfp4", "nvfp4", "uint8")
"""The formats that are in words; MXFP8 stays as it is."""
BLOCK = 64
"""Columns of a block."""
_RUN = 16
_E2M1_BITS = ((6, 7, 8, 15), (3, 4, 5, 12), (0, 1, 2, 9), (13, 14, 10, 11))
"""Where the four bits of each of a word's columns are, lowest first."""
_NIBBLE_BITS = tuple(tuple(range(4 * q, 4 * q + 4)) for q in range(4))


def words_of_block(fmt: str) -> int:
    """How many words hold a block."""
    return 2 * _RUN if fmt == "uint8" else _RUN


def word_columns(columns: int, fmt: str) -> int:
    """How many bytes hold the words of so many columns."""
    return -(-columns // BLOCK) * words_of_block(fmt) * 2


def _bits(fmt: str) -> tuple[tuple[int, ...], ...]:
    return _E2M1_BITS if fmt == "mxfp4" else _NIBBLE_BITS


def to_words(stored: torch.Tensor, fmt: str) -> torch.Tensor:
    """Codes as the words of format ``fmt``.

    stored: uint8 [E, N, K], or [E, N, K / 2] with two 4-bit codes to a byte.
    """
    num_experts, rows, _ = stored.shape
    columns = stored.shape[2] * (1 if fmt == "uint8" else 2)
    words = stored.new_zeros(num_experts, rows, word_columns(columns, fmt))
    for expert in range(num_experts):  # one at a time, for what lies unpacked in between
        codes = stored[expert] if fmt == "uint8" else unpack_nibbles(stored[expert])
        codes = torch.nn.functional.pad(codes, (0, -columns % BLOCK))
        if fmt == "uint8":
            low_first = codes.view(rows, -1, 2, _RUN).transpose(2, 3)
        else:
            runs = codes.view(rows, -1, 4, _RUN).to(torch.int32)
            word = torch.zeros_like(runs[:, :, 0])
            for q, places in enumerate(_bits(fmt)):
                for bit, place in enumerate(places):
                    word |= (runs[:, :, q] >> bit & 1) << place
            low_first = torch.stack([word & 0xFF, word >> 8], dim=-1).to(torch.uint8)
        words[expert] = low_first.reshape(rows, -1)
    return words


def from_words(words: torch.Tensor, fmt: str, columns: int) -> torch.Tensor:
    """Undo :func:`to_words`: the codes [E, N, columns], uint8, one to a byte."""
    num_experts, rows, _ = words.shape
    low_first = words.view(num_experts, rows, -1, _RUN, 2)
    if fmt == "uint8":
        codes = low_first.transpose(3, 4).reshape(num_experts, rows, -1)
        return codes[..., :columns].contiguous()
    pairs = low_first.to(torch.int32)
    word = pairs[..., 0] | pairs[..., 1] << 8
    runs = []
    for places in _bits(fmt):
        code = torch.zeros_like(word)
        for bit, place in enumerate(places):
            code |= (word >> place & 1) << bit
        runs.append(code)
    codes = torch.stack(runs, dim=3).view(num_experts, rows, -1)
    return codes[..., :columns].to(torch.uint8)
