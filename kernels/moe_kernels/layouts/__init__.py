"""From checkpoint tensors to what a kernel of this package takes.

Kernels take w13 [E, 2I, H] and w2 [E, H, I] in the layouts of
:mod:`moe_kernels.quantization.schemes`, scales as
:class:`moe_kernels.quant_config.FusedMoEQuantConfig` has them. What differs from checkpoints is in
one module per family of formats.
"""

from __future__ import annotations

import torch

from moe_kernels.layouts.grouped_integers import CheckpointFormat, dequantized, rows_of_groups
from moe_kernels.layouts.packed_for_cpu import packed_where_possible
from moe_kernels.layouts.scaled import canonical_scales
from moe_kernels.layouts.small_floats import mx, mxfp6_to_mxfp8, nvfp4
from moe_kernels.layouts.unpacked_in_triton import unpacked_in_triton
from moe_kernels.layouts.weights import LayerWeights
from moe_kernels.quantization.schemes import quantization_format
from moe_kernels.registry import our_names, runs_on_cpu, unpacks_in_triton
from moe_rules.vocabulary.quant_keys import QuantKey

__all__ = ["LayerWeights", "convert_to_kernel_format"]


def convert_to_kernel_format(
    kernel_name: str,
    weights: LayerWeights,
    weight_key: QuantKey | None = None,
    *,
    checkpoint_format: CheckpointFormat = "compressed_tensors",
    dtype: torch.dtype = torch.bfloat16,
    dequantize_for_cpu: bool = False,
) -> LayerWeights:
    """``weights`` as a checkpoint has them, as ``kernel_name`` takes them.

    ``checkpoint_format``: how INT4 and INT8 weights in groups are packed
    (:mod:`moe_kernels.layouts.grouped_integers`). ``dtype``: the layer's, for weights that are
    dequantized here. Scales of FP8 and INT8 come in as [], [E] or, for w13, [E, 2] (tensor),
    [E, N] or [E, N, 1] (channel), blocks as they are.

    Weights for CPU kernels are packed where torch's products of such are the fastest
    (:mod:`moe_kernels.layouts.packed_for_cpu`): w13 and w2 then have their shapes but no values,
    which are in ``packed``, and the kernel's quant_config needs that. The same kernels take weights
    that were not packed. ``dequantize_for_cpu``: there may be copies in ``dtype``, packed, beside
    the weights, for many tokens of an expert: FP8 then takes three times its memory. Where nothing
    is compiled for the weights (:mod:`moe_kernels.cpu.compiled`) there are only the copies, in
    float32 on a CPU without products of ``dtype``.

    Weights for Triton kernels that unpack them in registers are laid out as these read them
    fastest (:mod:`moe_kernels.layouts.unpacked_in_triton`), and those kernels take no others.

    Returns the tensors and the key of the converted weights, which is ``weight_key`` save where
    a kernel's weights are quantized otherwise than the checkpoint's, or not at all. Raises
    ValueError for a kernel that is not one of this package (its provider converts for it), and
    for tensors that are not what the key or the layout says.
    """
    if kernel_name not in our_names():
        raise ValueError(
            f"no conversion for kernel {kernel_name!r}; expected one of {', '.join(our_names())}"
        )
    weights = weights._replace(weight_key=weight_key)
    if weight_key is not None:
        weights = _in_format(kernel_name, weights, weight_key, checkpoint_format, dtype)
    if runs_on_cpu(kernel_name):
        return packed_where_possible(kernel_name, weights, dtype, dequantize_for_cpu)
    if unpacks_in_triton(kernel_name):
        return unpacked_in_triton(weights)
    return weights


def _in_format(
    kernel_name: str,
    weights: LayerWeights,
    weight_key: QuantKey,
    checkpoint_format: CheckpointFormat,
    dtype: torch.dtype,
) -> LayerWeights:
    """Quantized ``weights`` in the layout of :mod:`moe_kernels.quantization.schemes`."""
    fmt = quantization_format(weight_key)
    if fmt in ("fp8", "int8"):
        return canonical_scales(weights, weight_key)
    if fmt in ("int4", "uint8"):
        if kernel_name == "Int4EmulationTritonExperts":
            return dequantized(weights, weight_key, checkpoint_format, dtype)
        return rows_of_groups(weights, weight_key, checkpoint_format)
    if fmt == "nvfp4":
        return nvfp4(weights)
    if fmt.startswith("mxfp6"):
        return mxfp6_to_mxfp8(weights, fmt.removeprefix("mxfp6_"))
    return mx(weights)
