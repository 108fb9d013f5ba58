"""Experts' weights in the layouts that torch's CPU products read fastest, and those products.

A product of a plain matrix packs it each time, which for few tokens takes longer than the product.
:mod:`moe_kernels.layouts.packed_for_cpu` makes these weights, once when a layer is loaded.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch

from moe_kernels.cpu.compiled import StoredWeights


class Tokens(NamedTuple):
    """The inputs of one GEMM as it takes them, [M, K], with scales [M, 1] for its results."""

    values: torch.Tensor
    scale: torch.Tensor | None = None

    def select(self, index: torch.Tensor) -> Tokens:
        """The tokens at ``index``."""
        scale = None if self.scale is None else self.scale.index_select(0, index)
        return Tokens(self.values.index_select(0, index), scale)

    def rows(self, rows: slice) -> Tokens:
        """A range of the tokens."""
        return Tokens(self.values[rows], None if self.scale is None else self.scale[rows])


class PackedProduct(ABC):
    """The packed weights of one GEMM, for each expert a linear layer."""

    stored: StoredWeights | None = None
    """The same weights as they came, for products of few tokens, where there is memory for both."""

    @abstractmethod
    def apply(self, tokens: Tokens, expert: int, bias: torch.Tensor | None) -> torch.Tensor:
        """``tokens @ weight[expert].T + bias``: [m, N]; tokens: [m, K], m > 0; bias: [N]."""


@dataclass(frozen=True, eq=False)
class PackedUnquantized(PackedProduct):
    """Unquantized weights in oneDNN's layout; tokens become, and the result is, of their dtype."""

    experts: Sequence[torch.Tensor]
    stored: StoredWeights | None = None

    def apply(self, tokens: Tokens, expert: int, bias: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`PackedProduct.apply`."""
        weight = self.experts[expert]
        x = tokens.values.to(weight.dtype)
        bias = None if bias is None else bias.to(x.dtype)
        product = torch.ops.mkldnn._linear_pointwise
        output: torch.Tensor = product(x, weight, bias, "none", [], "")
        return output

    def weight(self, expert: int) -> torch.Tensor:
        """The weights of one expert as they came, [N, K]."""
        return self.experts[expert].to_dense()


@dataclass(frozen=True, eq=False)
class PackedInt8(PackedProduct):
    """INT8 weights in oneDNN's layout. Tokens are uint8, 128 meaning zero; the result is float32.

    Sums of products are exact, as the scheme has them.
    """

    experts: Sequence[torch.Tensor]
    scale: torch.Tensor
    """Float32 [E, N]."""
    zero_point: torch.Tensor
    """The weights', int32 [N], all zero."""

    def apply(self, tokens: Tokens, expert: int, bias: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`PackedProduct.apply`."""
        weight = self.experts[expert], self.scale[expert], self.zero_point
        # oneDNN has fast products of uint8 with int8, on most processors none of int8 with int8.
        output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            tokens.values, 1.0, 128, *weight, None, 1.0, 0, torch.float32, "none", [], ""
        ).mul_(tokens.scale)
        return output if bias is None else output.add_(bias)


@dataclass(frozen=True, eq=False)
class PackedWeights:
    """One layer's packed weights. Registered under ``key`` for as long as something holds them.

    torch.compile does not take oneDNN's tensors as arguments of operators, so these get the key.
    """

    w13: PackedProduct
    w2: PackedProduct
    key: int = field(default_factory=itertools.count(1).__next__, init=False)

    def __post_init__(self) -> None:
        PACKED[self.key] = self


PACKED: WeakValueDictionary[int, PackedWeights] = WeakValueDictionary()
"""By key."""


def stand_in(w: torch.Tensor) -> torch.Tensor:
    """What :func:`stands_for_packed` knows, for ``w`` [E, N, K] after packing; in its dtype."""
    # Where it is taken for weights all the same, a floating output shows it.
    nothing = w.new_full((), torch.nan if w.dtype.is_floating_point else 0)
    return nothing.expand(w.shape)


def stands_for_packed(w: torch.Tensor) -> bool:
    """Whether ``w`` [E, N, K] has no values of its own: one element, whatever the shape."""
    return not any(w.stride())
