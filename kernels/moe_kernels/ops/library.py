"""Registration of whole experts computations as torch operators.

An operator is opaque to ``torch.compile``: no graph break, no specialisation on token counts,
whatever its implementation does on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# torch.library is not annotated.
# mypy: allow-untyped-calls

_LIBRARY = torch.library.Library("moe_kernels", "FRAGMENT")


def register_operator(
    fake: Callable[..., Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function of tensors to become ``torch.ops.moe_kernels.<its name>``.

    ``fake`` takes the same arguments and returns empty tensors of the right shape and dtype. The
    function mutates none of its arguments, and has no gradient. What the decorator returns calls
    the operator.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        # The low-level interface costs a few microseconds less per call than custom_op.
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"moe_kernels::{name}", fake, lib=_LIBRARY)
        operator: Callable[..., Any] = getattr(torch.ops.moe_kernels, name).default
        return operator

    return decorate
