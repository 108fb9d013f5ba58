"""Integer quantization of 4 and 8 bits, with or without zero points.

Quantized over the last two dimensions (rows, columns), the leading ones are a batch. Symmetric:
``value = stored * scale``, and stored lies in [-7, 7] or [-127, 127]. Asymmetric: ``value =
(stored - zero_point) * scale`` with stored and zero point in [0, 15] or [0, 255].
"""

from __future__ import annotations

import torch

from moe_kernels.quantization.quotient import quotient
from moe_rules.vocabulary.quant_keys import CHANNEL, TENSOR, TOKEN

MIN_RANGE = 1e-10
"""Groups that span less count as spanning this, so that they have a usable scale."""


def _grouped(x: torch.Tensor, group_shape: tuple[int, int]) -> torch.Tensor:
    """``x`` with its last dimension one group: [..., N, G, g], or [..., N * K] per tensor."""
    if group_shape == TENSOR:
        return x.flatten(-2)
    columns = x.shape[-1]
    group = columns if group_shape in (CHANNEL, TOKEN) else group_shape[1]
    if group == 0 or columns % group:
        raise ValueError(f"groups of {group} do not divide {columns} columns")
    return x.reshape(*x.shape[:-1], columns // group, group)


def quantize_integer(
    x: torch.Tensor,
    bits: int,
    group_shape: tuple[int, int],
    *,
    symmetric: bool = True,
    scale_dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Quantize ``x`` [..., N, K] with scales from its values, rounding to nearest even.

    group_shape: TENSOR, CHANNEL or TOKEN (a scale per row), or (1, g) with g dividing K.
    Returns the integers (int8 if symmetric, else uint8) [..., N, K], the scales as
    ``scale_dtype`` and the zero points (uint8, None if symmetric): [...] (at least one element)
    per tensor, [..., N, 1] per row, [..., N, K / g] for groups. Raises ValueError for groups that
    do not divide K.
    """
    groups = _grouped(x.float(), group_shape)
    zero_point = None
    if symmetric:
        largest = 2 ** (bits - 1) - 1
        amax = groups.abs().amax(dim=-1, keepdim=True)
        scale = quotient(amax.clamp(min=MIN_RANGE), largest).to(scale_dtype)
        stored = torch.round(groups / scale.float()).clamp(-largest, largest).to(torch.int8)
    else:
        largest = 2**bits - 1
        low = groups.amin(dim=-1, keepdim=True).clamp(max=0)
        high = groups.amax(dim=-1, keepdim=True).clamp(min=0)
        scale = quotient((high - low).clamp(min=MIN_RANGE), largest).to(scale_dtype)
        zero_point = torch.round(-low / scale.float()).clamp(0, largest)
        stored = torch.round(groups / scale.float()) + zero_point
        stored = stored.clamp(0, largest).to(torch.uint8)
        zero_point = zero_point.to(torch.uint8).squeeze(-1)
    scale = scale.squeeze(-1)
    if group_shape == TENSOR:
        shape = x.shape[:-2] or (1,)
        scale = scale.reshape(shape)
        zero_point = None if zero_point is None else zero_point.reshape(shape)
    return stored.reshape(x.shape), scale, zero_point
