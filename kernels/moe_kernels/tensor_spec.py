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


def spec_of_optional(x: torch.Tensor | None) -> TensorSpec | None:
    """The spec of ``x``, if there is one."""
    return None if x is None else spec_of(x)
