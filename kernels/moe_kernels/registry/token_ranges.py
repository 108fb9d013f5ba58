"""One layer, several kernels: each call goes to the kernel of its number of tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch

from moe_kernels.modular_kernel import FusedMoEKernel
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.registry.bind import bind
from moe_rules.vocabulary.layer import FusedMoEConfig


class FusedMoEKernelByNumTokens:
    """Runs a layer on the kernel of the range that a call's number of tokens lies in.

    ``kernels`` are pairs of the fewest tokens of a range and its kernel, ascending from 1. All of
    them take the same weights. The choice looks at a shape only: nothing is read back from the
    device, a captured graph keeps the kernel of its size, and torch.compile specialises on it.

    Raises ValueError for ranges that do not begin at 1 or do not ascend.
    """

    def __init__(self, kernels: Sequence[tuple[int, FusedMoEKernel]]) -> None:
        firsts = [first for first, _ in kernels]
        if not firsts or firsts[0] != 1 or firsts != sorted(set(firsts)):
            raise ValueError(f"ranges must ascend from 1 token, got {firsts}")
        self._firsts = firsts
        self._kernels = [kernel for _, kernel in kernels]

    def kernel_for(self, num_tokens: int) -> FusedMoEKernel:
        """The kernel that serves a call of ``num_tokens``."""
        return self._kernels[max(bisect_right(self._firsts, num_tokens) - 1, 0)]

    def apply(self, hidden_states: torch.Tensor, *arguments: Any, **others: Any) -> torch.Tensor:
        """Run the layer; arguments and errors as :meth:`FusedMoEKernel.apply`."""
        kernel = self.kernel_for(hidden_states.shape[0])
        return kernel.apply(hidden_states, *arguments, **others)

    def apply_monolithic(
        self, hidden_states: torch.Tensor, *arguments: Any, **others: Any
    ) -> torch.Tensor:
        """Run the layer; arguments and errors as :meth:`FusedMoEKernel.apply_monolithic`."""
        kernel = self.kernel_for(hidden_states.shape[0])
        return kernel.apply_monolithic(hidden_states, *arguments, **others)


def bind_by_num_tokens(
    names: Sequence[tuple[int, str]],
    moe_config: FusedMoEConfig,
    quant_config: FusedMoEQuantConfig | None = None,
) -> FusedMoEKernelByNumTokens:
    """Bind the kernel names of a decision's token ranges, given by the first token of each.

    Raises as :func:`moe_kernels.registry.bind.bind` and :class:`FusedMoEKernelByNumTokens`.
    """
    bound = {name: bind(name, moe_config, quant_config) for name in {name for _, name in names}}
    return FusedMoEKernelByNumTokens([(first, bound[name]) for first, name in names])
