"""Activations in MXFP8, or rounded to the grid of a format.

In torch, on any device: these formats are emulated or new, and their kernels correct before fast.
"""

from __future__ import annotations

import torch

from moe_kernels.ops.library import register_operator
from moe_kernels.quantization.schemes import quantize_mx, round_to_grid
from moe_kernels.tensor_spec import TensorSpec, contiguous_spec, spec_of


def quantized_specs(x: TensorSpec, emulate: bool) -> tuple[TensorSpec, TensorSpec]:
    """What :func:`quantize_activations` makes of a tensor [M, K]."""
    rows, columns = x.shape
    if emulate:
        return (
            contiguous_spec(x.shape, x.dtype, x.device),
            contiguous_spec((1,), torch.float32, x.device),
        )
    return (
        contiguous_spec(x.shape, torch.float8_e4m3fn, x.device),
        contiguous_spec((rows, -(-columns // 32)), torch.uint8, x.device),
    )


def _fake_quantize_activations(
    x: torch.Tensor,
    fmt: str,
    group_shape: list[int],
    scale: torch.Tensor | None,
    scale_2: torch.Tensor | None,
    emulate: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    values, scales = quantized_specs(spec_of(x), emulate)
    return x.new_empty(values.shape, dtype=values.dtype), x.new_empty(
        scales.shape, dtype=scales.dtype
    )


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
