"""Experts' weights in the layouts that torch's CPU products read fastest, packed once when loaded.

A product of a plain matrix packs it each time, which for few tokens takes longer than the product.
Packed weights take no more memory than they came with: formats that torch has no product for stay
as they are (:mod:`moe_kernels.experts.cpu_products` converts them block by block in every call),
unless they may be dequantized when they are loaded.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

import torch

from moe_kernels.quantization.packing import unpack_nibbles
from moe_kernels.quantization.schemes import (
    QuantizedWeight,
    dequantize_weight,
    quantization_format,
)
from moe_rules.vocabulary.quant_keys import QuantKey

if TYPE_CHECKING:
    from moe_kernels.layouts.weights import LayerWeights


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

    @abstractmethod
    def apply(self, tokens: Tokens, expert: int, bias: torch.Tensor | None) -> torch.Tensor:
        """``tokens @ weight[expert].T + bias``: [m, N]; tokens: [m, K], m > 0; bias: [N]."""


@dataclass(frozen=True, eq=False)
class PackedUnquantized(PackedProduct):
    """Unquantized weights in oneDNN's layout; tokens and the result are in their dtype."""

    experts: Sequence[torch.Tensor]

    def apply(self, tokens: Tokens, expert: int, bias: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`PackedProduct.apply`."""
        x, weight = tokens.values, self.experts[expert]
        bias = None if bias is None else bias.to(x.dtype)
        product = torch.ops.mkldnn._linear_pointwise
        output: torch.Tensor = product(x, weight, bias, "none", [], "")
        return output


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
class PackedInt4(PackedProduct):
    """INT4 weights in the layout of torch's own product; tokens and the result are bf16."""

    experts: Sequence[torch.Tensor]
    scale_and_zero: torch.Tensor
    """bf16 [E, K / g, N, 2]: ``value = (stored - 8) * scale + zero``."""
    group_size: int

    def apply(self, tokens: Tokens, expert: int, bias: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`PackedProduct.apply`."""
        output: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            tokens.values, self.experts[expert], self.group_size, self.scale_and_zero[expert]
        )
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


def packed_where_possible(
    kernel_name: str, weights: LayerWeights, dtype: torch.dtype, dequantize: bool = False
) -> LayerWeights:
    """``weights`` with their values packed, if torch multiplies these on this CPU, else themselves.

    ``weights``: of ``kernel_name``, in the layout of :mod:`moe_kernels.quantization.schemes`.
    ``dtype``: the layer's. ``dequantize``: what else cannot be packed may be dequantized to
    ``dtype``, if the kernel leaves activations as they are. w13 and w2 of the result only stand
    for the packed weights (:func:`stands_for_packed`).
    """
    if weights.w13.device.type != "cpu":
        return weights
    fmt = None if weights.weight_key is None else quantization_format(weights.weight_key)
    if (kernel_name, fmt) == ("CPUExpertsInt4", "int8"):
        return weights  # INT4 stored as INT8: whether activations are quantized is not known here
    key = weights.weight_key if dequantize and kernel_name != "CPUExpertsFp8W8A8" else None

    def pack(
        w: torch.Tensor, scale: torch.Tensor | None, zero_point: torch.Tensor | None
    ) -> PackedProduct | None:
        product = _pack(w.detach(), scale, zero_point, fmt, dtype)
        if product is None and key is not None and fmt != "int8" and _onednn_multiplies(dtype):
            product = _pack_dequantized(w.detach(), scale, zero_point, key, dtype)
        return product

    w13 = pack(weights.w13, weights.w13_scale, weights.w13_zp)
    w2 = None if w13 is None else pack(weights.w2, weights.w2_scale, weights.w2_zp)
    if w13 is None or w2 is None:
        return weights
    return weights._replace(
        w13=_stand_in(weights.w13), w2=_stand_in(weights.w2), packed=PackedWeights(w13, w2)
    )


def stands_for_packed(w: torch.Tensor) -> bool:
    """Whether ``w`` [E, N, K] has no values of its own: one element, whatever the shape."""
    return not any(w.stride())


def _stand_in(w: torch.Tensor) -> torch.Tensor:
    # Where it is taken for weights all the same, a floating output shows it.
    nothing = w.new_full((), torch.nan if w.dtype.is_floating_point else 0)
    return nothing.expand(w.shape)


_PACKED_FOR_TOKENS = 16
"""The tokens per expert that oneDNN is asked to choose a layout for; any number is multiplied."""

_INT4_GROUPS = (32, 64, 128, 256)
_INT4_ROWS = 16
"""What torch's INT4 product takes: these group sizes, and multiples of so many rows."""


def _pack(
    w: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    fmt: str | None,
    dtype: torch.dtype,
) -> PackedProduct | None:
    """The weights [E, N, K] of one GEMM, or None if torch does not multiply them fast."""
    if fmt is None and _onednn_multiplies(w.dtype):
        return PackedUnquantized([_reordered(e) for e in w])
    if fmt == "int8" and scale is not None and zero_point is None:
        # Without VNNI, oneDNN's sums of two products may saturate.
        fits = torch._C._has_mkldnn and torch.cpu._is_vnni_supported()
        if not fits or scale.shape != (*w.shape[:2], 1):
            return None
        prepack = torch.ops.onednn.qlinear_prepack
        zeros = torch.zeros(w.shape[1], dtype=torch.int32)
        return PackedInt8([prepack(e, None) for e in w], scale[..., 0].float().contiguous(), zeros)
    if fmt == "int4" and scale is not None and dtype == torch.bfloat16:
        # Only its product in bf16 has vectors.
        group_size = 2 * w.shape[2] // scale.shape[2]
        if group_size not in _INT4_GROUPS or w.shape[1] % _INT4_ROWS:
            return None
        zero = 0.0 if zero_point is None else (8.0 - zero_point.float()) * scale.float()
        both = torch.stack([scale.float(), torch.zeros_like(scale.float()) + zero], dim=-1)
        pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        return PackedInt4(
            [pack(unpack_nibbles(e).int(), 1) for e in w],
            both.transpose(1, 2).to(dtype).contiguous(),
            group_size,
        )
    return None


def _pack_dequantized(
    w: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    key: QuantKey,
    dtype: torch.dtype,
) -> PackedUnquantized:
    assert scale is not None

    def dequantized(e: int) -> torch.Tensor:
        zero = None if zero_point is None else zero_point[e]
        return dequantize_weight(QuantizedWeight(w[e], scale[e], zero), key, dtype)

    return PackedUnquantized([_reordered(dequantized(e)) for e in range(len(w))])


def _reordered(w: torch.Tensor) -> torch.Tensor:
    """``w`` [N, K] in the layout of oneDNN."""
    reorder = torch.ops.mkldnn._reorder_linear_weight
    packed: torch.Tensor = reorder(w.contiguous(), _PACKED_FOR_TOKENS)
    return packed


def _onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has products of ``dtype`` on this CPU."""
    return torch._C._has_mkldnn and (
        dtype == torch.float32
        or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        or (dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported())
    )
