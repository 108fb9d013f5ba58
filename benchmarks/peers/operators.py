"""Stand-ins for what engines have compiled: this project's kernels, or plain ones.

They run where a compiled extension does not load. Each does in one launch what the operator that
it stands for does, save where its description says otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from moe_kernels.ops.moe_align_block_size import moe_align_block_size
from moe_kernels.ops.quantize_scaled import quantize_scaled
from moe_kernels.routing import Routing

from moe_rules.vocabulary.quant_keys import TENSOR, TOKEN


@triton.jit
def _gated_kernel(
    x_ptr,
    out_ptr,
    width,
    INTERLEAVED: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    x_ptr += row * width * 2
    if INTERLEAVED:
        # gpt-oss: limits, a steeper sigmoid, and one more of up.
        gate = tl.load(x_ptr + 2 * column, mask=mask).to(tl.float32)
        up = tl.load(x_ptr + 2 * column + 1, mask=mask).to(tl.float32)
        gate = tl.minimum(gate, 7.0)
        up = tl.minimum(tl.maximum(up, -7.0), 7.0) + 1.0
        value = gate * tl.sigmoid(1.702 * gate) * up
    else:
        gate = tl.load(x_ptr + column, mask=mask).to(tl.float32)
        up = tl.load(x_ptr + width + column, mask=mask).to(tl.float32)
        value = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + row * width + column, value.to(out_ptr.dtype.element_ty), mask=mask)


def _gated(out: torch.Tensor, x: torch.Tensor, interleaved: bool) -> None:
    rows, width = out.shape
    block = min(1024, triton.next_power_of_2(width))
    grid = (rows, triton.cdiv(width, block))
    _gated_kernel[grid](x, out, width, INTERLEAVED=interleaved, BLOCK=block)


def silu_and_mul(out: torch.Tensor, x: torch.Tensor) -> None:
    """``out`` [M, I] from ``x`` [M, 2I]."""
    _gated(out, x, interleaved=False)


def swigluoai_and_mul(out: torch.Tensor, x: torch.Tensor, *_: float) -> None:
    """The same with gpt-oss' activation, gate and up interleaved."""
    _gated(out, x, interleaved=True)


def align(
    topk_ids: torch.Tensor,
    block_size: int,
    num_experts: int,
    expert_map: torch.Tensor | None = None,
    *,
    ignore_invalid_experts: bool = False,
) -> Any:
    """VLLM's ``moe_align_block_size``; some launches more where it keeps experts elsewhere."""
    # With a map, it counts global experts.
    if expert_map is None or ignore_invalid_experts:
        routing = Routing(topk_ids, num_experts, expert_map)
        return moe_align_block_size(routing, block_size, num_experts)[:3]
    routing = Routing(topk_ids, num_experts, None)
    rows, experts, count = moe_align_block_size(routing, block_size, num_experts)[:3]
    return rows, expert_map[experts.clamp(0, num_experts - 1).long()], count


def align_local(topk_ids: torch.Tensor, block_size: int, num_experts: int) -> Any:
    """SGLang's: ids are local, and pairs of -1 get blocks of the expert -1, in some launches."""
    absent = num_experts
    ids = torch.where(topk_ids < 0, absent, topk_ids)
    routing = Routing(ids, num_experts + 1, None)
    rows, experts, count = moe_align_block_size(routing, block_size, num_experts + 1)[:3]
    return rows, torch.where(experts == absent, -1, experts), count


def moe_sum(
    x: torch.Tensor,
    out: torch.Tensor,
    topk_ids: torch.Tensor | None = None,
    expert_map: torch.Tensor | None = None,
) -> None:
    """The sum over experts of ``x`` [M, topk, H]; some launches more where there is a map."""
    if topk_ids is not None and expert_map is not None:
        x = x.masked_fill((expert_map[topk_ids.long()] < 0)[..., None], 0.0)
    torch.sum(x, dim=1, out=out)


def scaled_fp8_quant(
    x: torch.Tensor,
    scale: torch.Tensor | None = None,
    *,
    use_per_token_if_dynamic: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 values and scales of ``x`` [M, K]."""
    shape = TOKEN if use_per_token_if_dynamic and scale is None else TENSOR
    return quantize_scaled(x, shape, scale)


def per_token_group_quant_fp8(
    x: torch.Tensor, group_size: int, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with a scale per group of columns."""
    return quantize_scaled(x, (1, group_size))


def silu_and_mul_per_block_quant(
    x: torch.Tensor, group_size: int, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activation and quantization, in two launches instead of one."""
    out = x.new_empty(x.shape[0], x.shape[1] // 2)
    silu_and_mul(out, x)
    return quantize_scaled(out, (1, group_size))
