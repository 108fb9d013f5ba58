"""The grouped GEMM for few rows per expert, of every format, and where there is one."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any

import torch
import triton.language as tl

from moe_kernels.ops.fused_moe_gemm import scales_and_strides
from moe_kernels.ops.fused_moe_gemm_quantized import (
    FLOAT_GROUPS,
    SCALE_DTYPES,
    WeightTensors,
    row_strides,
)
from moe_kernels.ops.gemm_launch import (
    FusedActivation,
    Gemm,
    GemmCall,
    Pairs,
    gemm_call,
    gemm_launch,
    pairs_tensors,
)
from moe_kernels.ops.gemm_programs import settings_of
from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.ops.programmatic_launch import is_programmatic
from moe_kernels.quantization.words import BLOCK, WORD_FORMATS, words_of_block
from moe_kernels.tensor_spec import TensorSpec, spec_of, spec_of_optional, viewed
from moe_kernels.tiling.devices import has_gluon
from moe_kernels.tiling.tile_config import SOON_READ, TileConfig
from moe_rules.vocabulary.quant_keys import TENSOR, TOKEN

_CHUNK = 64
"""Bytes of a row of the weight that four lanes load at a time, 16 each."""

MOST_SUMMED = 16
"""Up to so many pairs of one token can be summed, each by a warp or several of one program."""

_MOST_COLUMNS = 16384
"""So many of one token's columns are brought to shared memory, all pairs' in a sum.

More would leave too little of it to the weights that are on their way.
"""

_MOST_UNROLLED = 8
"""Up to so many turns are written out where weights are soon read: code has to be loaded, too."""

_OPERANDS = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float8_e4m3fn: tl.float16,  # which holds all numbers of e4m3
}
"""What A is multiplied as."""


@kept
def has_few_rows_program(
    dtype: torch.dtype, weight: TensorSpec, block_shape: tuple[int, int] | None
) -> bool:
    """Whether :func:`fused_moe_gemm_few_rows` takes A of ``dtype`` with ``weight`` [E, N, columns].

    On NVIDIA GPUs from compute capability 9.0 on, with Triton 3.6 or newer. Rows of the weight are
    contiguous, and whole numbers of 16 bytes; scales of blocks hold for 64 columns or more.
    """
    size = weight.dtype.itemsize
    return (
        is_programmatic(weight.device)
        and has_gluon()
        and dtype in _OPERANDS
        and weight.strides[2] == 1
        and all(length * size % 16 == 0 for length in (*weight.strides[:2], weight.shape[2]))
        and (block_shape is None or block_shape[1] % (_CHUNK // size) == 0)
    )


def quantizes_rows(rows: int, columns: int, group_shape: tuple[int, int], static: bool) -> bool:
    """Whether :func:`fused_moe_gemm_few_rows` quantizes A itself, as ``group_shape`` says.

    Over a ``static`` scale for all; also each row of A, or the columns that a warp has at a time,
    where programs have ``rows`` of one token, with so many columns. rows: 0 of several tokens.
    """
    if static:
        return group_shape == TENSOR
    return group_shape in (TOKEN, (1, 2 * _CHUNK)) and 0 < _columns(rows, columns) <= _MOST_COLUMNS


def _columns(rows: int, columns: int) -> int:
    """How many a program has of one token's rows, which warps share as if a power of two."""
    return _power_of_2(rows) * columns if rows else 0


def _power_of_2(number: int) -> int:
    """The least one that is not less."""
    return 1 << (number - 1).bit_length()


def fused_moe_gemm_few_rows(
    a: torch.Tensor,
    b: WeightTensors,
    weight_format: str | None,
    pairs: Pairs,
    num_pairs: int,
    top_k: int,
    config: TileConfig,
    out_dtype: torch.dtype,
    *,
    a_scale: torch.Tensor | None = None,
    block_shape: tuple[int, int] | None = None,
    bias: torch.Tensor | None = None,
    activation: FusedActivation | None = None,
    out: torch.Tensor | None = None,
    of_one_token: bool = False,
    sum_experts: bool = False,
    topk_weights: torch.Tensor | None = None,
    routing_is_older: bool = False,
) -> torch.Tensor:
    """``out[p] = activation(a[p // top_k] @ b[expert of p].T (+ bias))`` for every pair p.

    With ``weight_format``, a and b as for
    :func:`moe_kernels.ops.fused_moe_gemm_quantized.fused_moe_gemm_quantized`, else as for
    :func:`moe_kernels.ops.fused_moe_gemm.fused_moe_gemm`, and so are the others;
    :func:`has_few_rows_program` says which there are. Where :func:`quantizes_rows` says so, a may
    be in 16 bits with b in FP8; a_scale is what was given then. ``config``: block_k and group_m are
    not used, num_stages is how many chunks a warp loads at a time.

    of_one_token: whether the pairs are those of one token.
    sum_experts: with one token, of at most MOST_SUMMED pairs, and without an activation, return its
    pairs' sum [1, N] instead, weighed by ``topk_weights`` [1, pairs], if there are any.
    routing_is_older: as for :func:`moe_kernels.ops.gemm_launch.gemm_call`.
    """
    call = gemm_call(
        pairs,
        num_pairs,
        top_k,
        config,
        activation,
        out_dtype,
        bias is not None,
        routing_is_older,
    )
    gemm = prepared_gemm_few_rows(
        call,
        spec_of(a),
        spec_of_optional(a_scale),
        spec_of(b.values),
        spec_of_optional(b.scale),
        b.zero_point is not None,
        spec_of_optional(b.scale_2),
        weight_format,
        block_shape,
        of_one_token,
        sum_experts,
        topk_weights is not None,
    )
    with_weight = (*b[1:], bias)
    return gemm(a, a_scale, b.values, with_weight, pairs_tensors(pairs), topk_weights, out)


_TAKES = itemgetter(*range(14))


@kept
def prepared_gemm_few_rows(
    call: GemmCall,
    a: TensorSpec,
    a_scale: TensorSpec | None,
    values: TensorSpec,
    scale: TensorSpec | None,
    has_zero_point: bool,
    row_scale: TensorSpec | None,
    weight_format: str | None,
    block_shape: tuple[int, int] | None,
    of_one_token: bool,
    sum_experts: bool,
    has_topk_weights: bool,
) -> Gemm:
    """:func:`fused_moe_gemm_few_rows` for such tensors."""
    # Where there is no Gluon they cannot be imported.
    from moe_kernels.ops.few_rows_programs import few_rows_kernel
    from moe_kernels.ops.few_rows_weights import FewRowsSettings

    views = {1: torch.int32, 5: torch.int32}
    if weight_format is not None:
        views[4] = torch.int32
    weight_dtype = values.dtype
    values = viewed(values, torch.int32)
    experts, n, row_words = values.shape
    k = a.shape[1]
    launch = gemm_launch(call, values)
    # Those of other ranks would have warps for nothing.
    in_turn = of_one_token and call.has_expert_map and call.num_pairs <= MOST_SUMMED
    summed = call.num_pairs if sum_experts and not in_turn else 0
    single = of_one_token and call.blocks is None and not summed
    in_words = weight_format in WORD_FORMATS
    quantizes = ""
    if weight_format is None and a.dtype != weight_dtype:
        quantizes = "group" if block_shape else "token" if a_scale is None else "tensor"
    operands = weight_dtype if weight_format is None else a.dtype
    loads = words_of_block(weight_format) // 16 if weight_format and in_words else 1
    chunk = 2 * BLOCK if in_words else _CHUNK // weight_dtype.itemsize
    if weight_format is None and (block_shape is None or block_shape[1] % (2 * chunk) == 0):
        loads, chunk = 2, 2 * chunk
    scales, strides = "none", [0] * 5
    num_groups, groups = 1, _NO_GROUPS
    if weight_format is None:
        scales, strides = scales_and_strides(a_scale, scale, block_shape)
        if quantizes and a_scale is None:  # weights' strides are where scales of A have theirs
            scales, strides = scales_and_strides(scale, scale, block_shape)
            strides = [0, 0, *strides[-3:]]
    elif scale is not None:
        _, units, _, per_unit = scale.shape
        strides[2:] = units * n, 1, n
        group = FLOAT_GROUPS.get(weight_format, k // (units * per_unit))
        num_groups = -(-k // group)
        groups = {
            "scale": SCALE_DTYPES[scale.dtype],
            "per_unit": per_unit,
            "group": group,
            "one_unit": num_groups == 1 or per_unit * group % (BLOCK if in_words else 16) == 0,
            "scales_per_block": 1 if num_groups == 1 else BLOCK // math.gcd(group, BLOCK),
        }
    if scales == "block" and block_shape:
        groups = _NO_GROUPS | {"group": block_shape[1], "one_unit": True}
    pairs_at_once = _power_of_2(summed) if summed else 1
    in_shared = (single or summed > 0) and (
        quantizes in ("group", "token") or _columns(pairs_at_once, k) <= _MOST_COLUMNS
    )
    warps = max(call.config.num_warps, pairs_at_once)
    group_n, group_k = block_shape if scales == "block" and block_shape else (1, 1)
    warps_of_pair = warps // pairs_at_once
    # What ptxas knows to be 0, as chunks that no warp has, it converts from FP8 to 12 now and then.
    turns = -(-k // (chunk * warps_of_pair))
    stages = min(call.config.num_stages, turns)
    programs = call.num_pairs  # of each tile
    if in_turn:
        programs = -(-call.num_pairs * experts // call.num_experts)
    soon_read = programs * n * row_words * 4 <= SOON_READ  # else loops' code is in the cache
    most = _MOST_UNROLLED if in_shared and soon_read else stages
    counts = range(min(turns, most), stages, -1)
    unrolled = next((count for count in counts if turns % count == 0), stages)
    settings = settings_of(
        FewRowsSettings,
        **(launch.settings | {"stages": stages}),
        **groups,
        input_precision="ieee",
        mask_k=k % chunk != 0,
        halves=False,
        quantized=scale is not None,
        block_k=chunk,
        warps=warps,
        columns=k,
        row_words=row_words,
        unrolled=unrolled,
        whole=k % (chunk * warps_of_pair) == 0 and turns % unrolled == 0,
        pairs_at_once=pairs_at_once,
        scale_sums=(
            weight_format in ("int4", "uint8")
            and call.out_dtype == torch.bfloat16
            and (num_groups == 1 or groups["group"] % chunk == 0)
        ),
        single=single,
        in_turn=in_turn,
        adds_up=in_turn and sum_experts,
        summed=summed,
        in_shared=in_shared,
        has_topk_weights=sum_experts and has_topk_weights,
        format=weight_format or "",
        words=in_words,
        loads=loads,
        packed_arithmetic=(
            weight_format in ("int4", "mxfp4", "uint8")
            and call.out_dtype == torch.bfloat16
            and groups["scales_per_block"] <= 2
        ),
        has_zero_point=has_zero_point,
        scales=scales,
        quantizes=quantizes,
        group_n=group_n,
        group_k=group_k,
        has_a_scale=a_scale is not None and scales == "none",
        has_row_scale=row_scale is not None,
        dtype=_OPERANDS[operands],
    )
    sizes = (call.num_experts, n, launch.width, num_groups)
    scalars = (
        *sizes,
        call.num_pairs,
        call.top_k,
        *a.strides,
        *strides[:2],
        *(stride // 4 for stride in values.strides[:2]),
        *strides[2:],
        *row_strides(row_scale),
        *launch.activation,
    )
    grid = launch.grid
    if sum_experts:
        grid = (grid[0], 1)
    elif in_turn:
        grid = (grid[0], programs)
    elif single:
        grid = (grid[0], call.num_pairs)
    options = {**launch.options, "num_warps": warps}
    del options["num_stages"]  # of Triton's own pipelines
    if in_turn:
        options["maxnreg"] = 128  # ptxas would take all that there are for one program
    launcher = Launcher(few_rows_kernel, grid, scalars, {"S": settings}, viewed=views, **options)
    rows = 1 if sum_experts else call.num_pairs
    return Gemm(launcher, _TAKES, (rows, launch.width), call.out_dtype)


_NO_GROUPS: dict[str, Any] = {
    "scale": "",
    "per_unit": 1,
    "group": 1,
    "one_unit": False,
    "scales_per_block": 1,
}
