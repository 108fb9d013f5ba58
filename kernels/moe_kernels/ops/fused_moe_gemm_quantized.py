"""The grouped GEMM of MoE layers on weights that are dequantized as they are loaded.

Memory holds only the packed weights; tiles of them become numbers of the activations' dtype in
registers, and go from there to the matrix units (:mod:`moe_kernels.ops.quantized_sums`).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import functools
import math
from operator import itemgetter
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from moe_kernels.ops.gemm_launch import (
    FusedActivation,
    Gemm,
    GemmCall,
    Pairs,
    gemm_call,
    gemm_launch,
    pairs_tensors,
)
from moe_kernels.ops.gemm_programs import (
    compute_tile,
    settings_of,
    tile_of_program,
    wait_for_tokens,
    weight_rows,
)
from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.ops.quantized_sums import QuantizedSettings, sums_of_packed
from moe_kernels.quantization.words import BLOCK, WORD_FORMATS, words_of_block
from moe_kernels.tensor_spec import TensorSpec, spec_of, spec_of_optional, viewed
from moe_kernels.tiling.devices import specializes_warps
from moe_kernels.tiling.tile_config import TileConfig


class WeightTensors(NamedTuple):
    """One layer weight [E, N, K] as :func:`moe_kernels.layouts.convert_to_kernel_format` has it."""

    values: torch.Tensor
    scale: torch.Tensor | None
    zero_point: torch.Tensor | None = None
    scale_2: torch.Tensor | None = None


@triton.jit(do_not_specialize=["num_pairs", "num_experts"])
def _fused_moe_gemm_quantized_kernel(
    a_ptr,
    b_ptr,
    out_ptr,
    a_scale_ptr,
    b_scale_ptr,
    zero_point_ptr,
    row_scale_ptr,
    bias_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    topk_ids_ptr,
    expert_map_ptr,
    num_experts,
    N,
    K,
    width,
    stored_columns,
    num_groups,
    num_pairs,
    top_k,
    stride_am,
    stride_ak,
    stride_asm,
    stride_ask,
    stride_be,
    stride_bn,
    stride_bse,
    stride_bsg,
    stride_rse,
    stride_rsn,
    limit,
    alpha,
    beta,
    situ_beta,
    situ_linear_beta,
    S: tl.constexpr,
):
    sorted_pairs = (expert_ids_ptr, num_tokens_post_padded_ptr)
    routing = (topk_ids_ptr, expert_map_ptr, num_experts)
    tile_n, expert, num_rows, where = tile_of_program(sorted_pairs, routing, num_pairs, N, S)
    if num_rows == 0:
        return
    n = weight_rows(tl.arange(0, S.block_n), tile_n, N, width, S)
    b_rows = b_ptr + expert * stride_be + n.to(tl.int64) * stride_bn
    wait_for_tokens(b_rows, stored_columns * (2 if S.words else 1), S)
    # What there is not is another pointer: tuples hold no None.
    a_scales = a_scale_ptr if S.has_a_scale or S.native_mx else a_ptr
    zero_points = zero_point_ptr if S.has_zero_point else b_scale_ptr
    row_scales = row_scale_ptr + expert * stride_rse + n * stride_rsn if S.has_row_scale else a_ptr
    bias_columns = bias_ptr + expert * N + n if S.has_bias else a_ptr

    pairs = (where, num_rows, sorted_token_ids_ptr, num_pairs, top_k)
    tokens = (a_ptr, stride_am, stride_ak, a_scales, stride_asm, stride_ask)
    weights = (K, stored_columns, num_groups, b_rows, row_scales)
    scales = (b_scale_ptr, zero_points, expert * stride_bse + n, stride_bsg)
    parameters = (limit, alpha, beta, situ_beta, situ_linear_beta)
    result = (out_ptr, tile_n, width, parameters)
    compute_tile(sums_of_packed, pairs, tokens + weights + scales, bias_columns, result, S)


def fused_moe_gemm_quantized(
    a: torch.Tensor,
    b: WeightTensors,
    weight_format: str,
    pairs: Pairs,
    num_pairs: int,
    top_k: int,
    config: TileConfig,
    out_dtype: torch.dtype,
    *,
    a_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    activation: FusedActivation | None = None,
    native_mx: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``out[p] = activation(a[p // top_k] @ b[expert of p].T (+ bias))`` for every pair p.

    a: [rows, K], any strides; a row per token (``top_k`` pairs each), or per pair (``top_k`` 1).
    Of ``out_dtype``, a_scale None or float32 [1]; or, with ``native_mx``, which multiplies mxfp8
    by mxfp8 with the hardware's scaled products, e4m3 with a_scale e8m0 [rows, ceil(K / 32)].
    b: of ``weight_format``, in the words of :mod:`moe_kernels.quantization.words`, mxfp8 as bytes,
    contiguous in the last dimension. Scales and zero points in units of 32 bits,
    [E, units, N, groups of a unit], contiguous. Groups of a multiple of 16 columns, or one of all.
    scale_2: [E], or [E, N, 1].
    pairs, config, activation, out: as for :func:`moe_kernels.ops.fused_moe_gemm.fused_moe_gemm`;
    ``config.block_k`` counts columns, ``config.block_n`` rows of the weight.
    bias: [E, N], contiguous.

    Returns [num_pairs, N] in ``out_dtype``, accumulated in float32; [num_pairs, N / 2] after a
    gated activation. Rows of pairs without an expert are not written. Raises ValueError for groups
    of other sizes.
    """
    if config.warp_specialized and (a.data_ptr() | b.values.data_ptr()) % 16:
        config = config._replace(warp_specialized=False)
    call = gemm_call(pairs, num_pairs, top_k, config, activation, out_dtype, bias is not None)
    gemm = prepared_gemm_quantized(
        call,
        spec_of(a),
        spec_of_optional(a_scale),
        spec_of(b.values),
        spec_of_optional(b.scale),
        b.zero_point is not None,
        spec_of_optional(b.scale_2),
        weight_format,
        native_mx,
    )
    return gemm(a, a_scale, b.values, (*b[1:], bias), pairs_tensors(pairs), out=out)


_TAKES = itemgetter(0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13)


@kept
def prepared_gemm_quantized(
    call: GemmCall,
    a: TensorSpec,
    a_scale: TensorSpec | None,
    values: TensorSpec,
    scale: TensorSpec | None,
    has_zero_point: bool,
    row_scale: TensorSpec | None,
    weight_format: str,
    native_mx: bool,
) -> Gemm:
    """:func:`fused_moe_gemm_quantized` for such tensors.

    Where ``call.config`` is warp-specialized, a and values begin at multiples of 16 bytes.
    """
    assert scale is not None
    views = {1: _stored(values.dtype, weight_format), 5: torch.int32}
    if not native_mx:
        views[4] = torch.int32
    values = viewed(values, views[1])
    _, n, stored_columns = values.shape
    k = a.shape[1]
    launch = gemm_launch(call, values)
    config = call.config
    _, units, _, per_unit = scale.shape
    group = FLOAT_GROUPS.get(weight_format, k // (units * per_unit))
    num_groups = -(-k // group)
    in_words = weight_format in WORD_FORMATS
    block_k, scales_per_block = _block(group, num_groups, in_words, config.block_k)
    blocks = max(1, config.block_k // block_k)
    settings = settings_of(
        QuantizedSettings,
        **launch.settings,
        input_precision="ieee" if call.out_dtype == torch.float32 else "tf32",
        mask_k=k % (block_k * blocks) != 0,
        halves=config.block_m >= 64 and launch.settings["sorted"],
        quantized=True,
        block_k=block_k,
        blocks=blocks,
        format=weight_format,
        words=words_of_block(weight_format) if in_words else 0,
        packed_arithmetic=(
            weight_format in ("int4", "mxfp4", "uint8")
            and call.out_dtype == torch.bfloat16
            and scales_per_block <= 2
            and _has_packed_arithmetic(values.device)
        ),
        native_mx=native_mx,
        scale=SCALE_DTYPES[scale.dtype],
        per_unit=per_unit,
        one_unit=not native_mx and (num_groups == 1 or per_unit * group % (block_k * blocks) == 0),
        group=group,
        scales_per_block=scales_per_block,
        dtype=_TRITON_DTYPES[call.out_dtype],
        has_a_scale=a_scale is not None and not native_mx,
        has_zero_point=has_zero_point,
        has_row_scale=row_scale is not None,
    )
    sizes = (call.num_experts, n, k, launch.width, stored_columns, num_groups)
    scalars = (
        *sizes,
        call.num_pairs,
        call.top_k,
        *a.strides,
        *((0, 0) if a_scale is None or len(a_scale.shape) < 2 else a_scale.strides),
        *values.strides[:2],
        units * n,
        n,
        *row_strides(row_scale),
        *launch.activation,
    )
    shape = call.num_pairs, launch.width
    if config.warp_specialized and specializes_warps(values.device):
        # Tritons before 3.6 lack what it imports.
        from moe_kernels.ops.fused_moe_gemm_quantized_hopper import hopper_launcher, takes

        if takes(a, values, settings, config):
            tiles, device = launch.grid[0], values.device
            launcher = hopper_launcher(settings, config, tiles, scalars, views, device)
            return Gemm(launcher, _TAKES, shape, call.out_dtype)
    launcher = Launcher(
        _fused_moe_gemm_quantized_kernel,
        launch.grid,
        scalars,
        {"S": settings},
        viewed=views,
        **launch.options,
    )
    return Gemm(launcher, _TAKES, shape, call.out_dtype)


FLOAT_GROUPS = {"mxfp4": 32, "mxfp8": 32, "nvfp4": 16}
SCALE_DTYPES = {
    torch.uint8: "e8m0",
    torch.float8_e4m3fn: "e4m3",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
}
_TRITON_DTYPES = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}


def _block(group: int, num_groups: int, in_words: bool, wanted: int) -> tuple[int, int]:
    """Columns of one product, and in how many groups they lie: 1, or in words 2 or 4."""
    widest = BLOCK if in_words else min(wanted, 128)
    common = widest if num_groups == 1 else math.gcd(group, widest)
    if common < 16:
        raise ValueError(
            f"groups of {group} columns have no kernel; expected a multiple of 16, or one of all"
        )
    return (BLOCK, BLOCK // common) if in_words else (common, 1)


@functools.cache
def _has_packed_arithmetic(device: torch.device) -> bool:
    """Whether the device has the instructions that unpack two numbers at a time."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def row_strides(row_scale: TensorSpec | None) -> tuple[int, int]:
    """The strides of scale_2 [E] or [E, N, 1] by experts and by rows."""
    if row_scale is None:
        return 0, 0
    return (
        row_scale.strides[0] if row_scale.shape.numel() > 1 else 0,
        row_scale.strides[1] if len(row_scale.shape) > 1 else 0,
    )


def _stored(dtype: torch.dtype, weight_format: str) -> torch.dtype:
    """What kernels load values as that are stored as ``dtype``.

    FP8 as its bits, which the kernel decodes itself, on every GPU alike.
    """
    if weight_format in WORD_FORMATS:
        return torch.int16
    return torch.uint8 if dtype == torch.float8_e4m3fn else dtype
