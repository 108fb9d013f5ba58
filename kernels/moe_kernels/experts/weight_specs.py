"""What goes with a weight, without where it lies, and whether that fits it: kernels trust it."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from moe_kernels.activation import activation_form
from moe_kernels.quantization.microscaling import MX_GROUP, NVFP4_GROUP
from moe_kernels.tensor_spec import TensorSpec, spec_of, spec_of_optional

_GROUPS = {"mxfp4": MX_GROUP, "mxfp8": MX_GROUP, "nvfp4": NVFP4_GROUP}
"""The columns of one scale, of formats whose last group may be shorter."""


class WeightSpecs(NamedTuple):
    """Of a weight, and of its scale, zero point, second scale and bias; whether a's is static."""

    values: TensorSpec
    scale: TensorSpec | None
    zero_point: TensorSpec | None
    scale_2: TensorSpec | None
    bias: TensorSpec | None
    static: bool


def weight_specs(weight: torch.Tensor, tensors: list[torch.Tensor | None]) -> WeightSpecs:
    """Of a weight and :meth:`moe_kernels.quant_config.FusedMoEQuantConfig.gemm_tensors`."""
    scale, zero_point, scale_2, bias, a_scale, _ = tensors
    return WeightSpecs(
        spec_of(weight),
        spec_of_optional(scale),
        spec_of_optional(zero_point),
        spec_of_optional(scale_2),
        spec_of_optional(bias),
        a_scale is not None,
    )


@functools.lru_cache(maxsize=4096)
def check_weights(
    w13: WeightSpecs,
    w2: WeightSpecs,
    hidden: int,
    activation: str,
    fmt: str | None,
    block_shape: tuple[int, int] | None,
) -> None:
    """Raise ValueError for what does not fit the weights w13 [E, N, ``hidden``] and w2.

    fmt: of :mod:`moe_kernels.quantization.schemes`, None where there are no groups; scales may be
    in units, as :mod:`moe_kernels.layouts.unpacked_in_triton` has them. block_shape: of FP8 in
    blocks.
    """
    _check_weight("w13", w13, hidden, fmt, block_shape)
    intermediate = w13.values.shape[1] // (2 if activation_form(activation).gated else 1)
    _check_weight("w2", w2, intermediate, fmt, block_shape)


def _check_weight(
    name: str,
    weight: WeightSpecs,
    columns: int,
    fmt: str | None,
    block_shape: tuple[int, int] | None,
) -> None:
    values, scale, zero_point, scale_2, bias, _ = weight
    num_experts, rows = values.shape[:2]
    for part, spec in zip(weight._fields[1:5], weight[1:5], strict=True):
        if spec is not None and spec.device != values.device:
            raise ValueError(f"{name}_{part} is on {spec.device}, but {name} is on {values.device}")
    if bias is not None:
        _check(f"{name}_bias", bias, (num_experts, rows))
    if scale_2 is not None and scale_2.shape != (num_experts, rows, 1):
        _check(f"{name}_scale_2", scale_2, (num_experts,))
    if scale is None:
        return
    if len(scale.shape) == 1:
        expected: tuple[int, ...] = (num_experts,)
    elif block_shape is not None:
        expected = (num_experts, -(-rows // block_shape[0]), -(-columns // block_shape[1]))
    else:
        groups = scale.shape[-1] * (scale.shape[1] if len(scale.shape) == 4 else 1)
        if fmt in (None, "fp8"):
            groups = 1
        elif fmt in _GROUPS:
            groups = -(-columns // _GROUPS[fmt])
        elif groups == 0 or columns % groups:
            raise ValueError(
                f"{name}_scale has {groups} groups, which do not divide the {columns} columns of "
                f"{name}"
            )
        expected = (num_experts, rows, groups)
        if len(scale.shape) == 4:
            per_unit = scale.shape[3]
            expected = (num_experts, -(-groups // per_unit), rows, per_unit)
    _check(f"{name}_scale", scale, expected)
    if zero_point is not None:
        _check(f"{name}_zp", zero_point, expected)


def _check(name: str, spec: TensorSpec, expected: tuple[int, ...]) -> None:
    if spec.shape != expected:
        raise ValueError(f"{name} must be {list(expected)} here, got {list(spec.shape)}")
