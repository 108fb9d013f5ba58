"""Division of tensors by numbers, rounded as IEEE 754 says on every device."""

from __future__ import annotations

import torch


def quotient(x: torch.Tensor, number: float) -> torch.Tensor:
    """``x / number`` in the dtype of ``x``, the nearest number to it.

    On a GPU, torch multiplies by the reciprocal of a Python number, which is rounded itself.
    """
    return x / x.new_full((), number)
