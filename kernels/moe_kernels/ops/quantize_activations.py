"""Activations in MXFP8, or rounded to the grid of a format.

In torch, on any device: these formats are emulated or new, and their kernels correct before fast.
"""

from __future__ import annotations

import torch

from moe_kernels.ops.library import register_operator
from moe_kernels.quantization.schemes import quantize_mx, round_to_grid


def _fake_quantize_activations(
    x: torch.Tensor,
    fmt: str,
    group_shape: list[int],
    scale: torch.Tensor | None,
    scale_2: torch.Tensor | None,
    emulate: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    if emulate:
        return x.new_empty(x.shape), x.new_empty(1, dtype=torch.float32)
    scales = x.new_empty(x.shape[0], -(-x.shape[1] // 32), dtype=torch.uint8)
    return x.new_empty(x.shape, dtype=torch.float8_e4m3fn), scales


@register_operator(_fake_quantize_activations)
def quantize_activations(
    x: torch.Tensor,
    fmt: str,
    group_shape: list[int],
    scale: torch.Tensor | None,
    scale_2: torch.Tensor | None,
    emulate: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize ``x`` [M, K] to ``fmt`` (:mod:`moe_kernels.quantization.schemes`).

    With ``emulate``: the values, rounded, in the dtype of ``x``, and what they are to be multiplied
    by, float32 [1]. Else mxfp8 values and their scales, e8m0 [M, ceil(K / 32)].
    """
    shape = (group_shape[0], group_shape[1])
    if emulate:
        values, factor = round_to_grid(x, fmt, shape, scale, scale_2)
        # An operator may not return its own argument.
        return values.to(x.dtype), factor.clone()
    rounded, scales = quantize_mx(x, fmt)
    return rounded.to(torch.float8_e4m3fn), scales
