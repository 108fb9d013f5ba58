"""Rows of tokens on a GPU: copied to where they are sent from, and summed where they return."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

from moe_kernels.ops.launcher import Launcher, kept


def in_words(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """``tensors`` in elements of 4 bytes, if they can be; else in bytes."""
    in_bytes = [x.view(torch.uint8) for x in tensors]
    sizes = [n for x in in_bytes for n in (x.shape[1], x.stride(0), x.storage_offset())]
    return [x.view(torch.int32) for x in in_bytes] if all(n % 4 == 0 for n in sizes) else in_bytes


@triton.jit(do_not_specialize=["num_rows"])
def _sum_rows_kernel(
    x_ptr,
    rows_ptr,
    weights_ptr,
    out_ptr,
    num_rows,
    width,
    places,
    PLACES: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = tl.arange(0, PLACES)
    entry = token * places + place
    row = tl.load(rows_ptr + entry, mask=place < places, other=num_rows)
    mask = (row < num_rows)[:, None] & (column < width)[None, :]
    value = tl.load(x_ptr + row[:, None] * width + column[None, :], mask=mask, other=0.0)
    value = value.to(tl.float32)
    if HAS_WEIGHTS:
        weight = tl.load(weights_ptr + entry, mask=row < num_rows, other=0.0).to(tl.float32)
        value *= weight[:, None]
    total = tl.sum(value, 0)
    out = out_ptr + token * width + column
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=column < width)


def sum_rows(x: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Each token's ``rows`` [M, places] int64 of ``x`` [R, H], weighted and summed in float32.

    From R on there is none. ``weights`` [M, places] floating; None: 1. All contiguous. Returns
    [M, H] in the dtype of ``x``.
    """
    out = x.new_empty((rows.shape[0], x.shape[1]))
    if out.numel() > 0:
        launcher = _sum_launcher(*x.shape, *rows.shape, weights is not None)
        launcher(x, rows, weights, out)
    return out


@kept
def _sum_launcher(
    num_rows: int, width: int, num_tokens: int, places: int, has_weights: bool
) -> Launcher:
    block = min(triton.next_power_of_2(width), 512)
    return Launcher(
        _sum_rows_kernel,
        (num_tokens, triton.cdiv(width, block)),
        (num_rows, width, places),
        {"PLACES": triton.next_power_of_2(places), "HAS_WEIGHTS": has_weights, "BLOCK": block},
        num_warps=2,  # with as many columns as one load of each thread has
    )
