"""All of a tensor but where it lies: what a call finds again what was worked out before by."""

from __future__ import annotations

from typing import NamedTuple

import torch


class TensorSpec(NamedTuple):
    """What a kernel is chosen and prepared by; equal for tensors that differ in values only."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def spec_of(x: torch.Tensor) -> TensorSpec:
    """The spec of ``x``."""
    return TensorSpec(x.shape, x.stride(), x.dtype, x.device)


def contiguous_spec(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> TensorSpec:
    """The spec of a new tensor."""
    strides = [1]
    for length in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(1, length))
    return TensorSpec(torch.Size(shape), tuple(strides), dtype, device)


def viewed(spec: TensorSpec, dtype: torch.dtype) -> TensorSpec:
    """The spec of ``x.view(dtype)``, where x is contiguous in its last dimension."""

    def count(values: int) -> int:
        return values * spec.dtype.itemsize // dtype.itemsize

    shape = torch.Size((*spec.shape[:-1], count(spec.shape[-1])))
    return TensorSpec(shape, (*map(count, spec.strides[:-1]), 1), dtype, spec.device)


def spec_of_optional(x: torch.Tensor | None) -> TensorSpec | None:
    """The spec of ``x``, if there is one."""
    return None if x is None else spec_of(x)
