"""Sort (token, expert) pairs by expert, each expert's pairs padded to whole blocks."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

from moe_kernels.ops.routing import local_expert


@triton.jit
def _count_kernel(
    topk_ids_ptr,
    expert_map_ptr,
    counts_ptr,
    num_pairs,
    num_experts,
    HAS_EXPERT_MAP: tl.constexpr,
    CHUNK: tl.constexpr,
):
    expert = tl.program_id(0)
    count = tl.zeros((CHUNK,), dtype=tl.int32)
    for start in range(0, num_pairs, CHUNK):
        pair = start + tl.arange(0, CHUNK)
        local = local_expert(
            topk_ids_ptr, pair, pair < num_pairs, expert_map_ptr, num_experts, HAS_EXPERT_MAP
        )
        count += (local == expert).to(tl.int32)
    tl.store(counts_ptr + expert, tl.sum(count))


@triton.jit
def _scatter_kernel(
    topk_ids_ptr,
    expert_map_ptr,
    counts_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    num_pairs,
    num_experts,
    num_local_experts,
    HAS_EXPERT_MAP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    expert = tl.program_id(0)
    experts = tl.arange(0, EXPERTS)
    counts = tl.load(counts_ptr + experts, mask=experts < num_local_experts, other=0)
    blocks = tl.cdiv(counts, BLOCK_SIZE)
    first_block = tl.sum(tl.where(experts < expert, blocks, 0))
    num_blocks = tl.sum(tl.where(experts == expert, blocks, 0))
    if expert == 0:
        tl.store(num_tokens_post_padded_ptr, tl.sum(blocks) * BLOCK_SIZE)
    for start in range(0, num_blocks, CHUNK):
        block = start + tl.arange(0, CHUNK)
        tl.store(expert_ids_ptr + first_block + block, expert, mask=block < num_blocks)

    position = first_block * BLOCK_SIZE
    end = position + num_blocks * BLOCK_SIZE
    for start in range(0, num_pairs, CHUNK):
        pair = start + tl.arange(0, CHUNK)
        local = local_expert(
            topk_ids_ptr, pair, pair < num_pairs, expert_map_ptr, num_experts, HAS_EXPERT_MAP
        )
        mine = (local == expert).to(tl.int32)
        rank = tl.cumsum(mine, 0) - mine
        tl.store(sorted_token_ids_ptr + position + rank, pair, mask=mine != 0)
        position += tl.sum(mine)
    padding = position + tl.arange(0, BLOCK_SIZE)
    tl.store(sorted_token_ids_ptr + padding, num_pairs, mask=padding < end)


def moe_align_block_size(
    topk_ids: torch.Tensor,
    block_size: int,
    num_local_experts: int,
    global_num_experts: int,
    expert_map: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sort the pairs of ``topk_ids`` by local expert, without a host sync, always the same way.

    topk_ids: [M, topk] int32 or int64, contiguous; pair p is token p // topk. Ids outside
    [0, global_num_experts) and experts that ``expert_map`` ([global_num_experts] int32) puts at
    -1 are left out. ``block_size`` is a power of two.

    Returns int32 tensors as large as the worst case needs:

    - sorted_token_ids: the pairs, ascending within an expert, experts ascending; an expert's last
      block is filled with M * topk.
    - expert_ids: the local expert of each block.
    - num_tokens_post_padded: [1], how much of sorted_token_ids is meaningful.
    """
    num_pairs = topk_ids.numel()
    num_active = min(num_local_experts, num_pairs)
    max_blocks = num_active + (num_pairs - num_active) // block_size
    counts = topk_ids.new_empty(num_local_experts, dtype=torch.int32)
    sorted_token_ids = topk_ids.new_empty(max_blocks * block_size, dtype=torch.int32)
    expert_ids = topk_ids.new_empty(max_blocks, dtype=torch.int32)
    num_tokens_post_padded = topk_ids.new_empty(1, dtype=torch.int32)
    chunk = 1024 if num_pairs <= 8192 else 4096
    options = {"HAS_EXPERT_MAP": expert_map is not None, "CHUNK": chunk, "num_warps": 8}
    grid = (num_local_experts,)
    _count_kernel[grid](topk_ids, expert_map, counts, num_pairs, global_num_experts, **options)
    _scatter_kernel[grid](
        topk_ids,
        expert_map,
        counts,
        sorted_token_ids,
        expert_ids,
        num_tokens_post_padded,
        num_pairs,
        global_num_experts,
        num_local_experts,
        BLOCK_SIZE=block_size,
        EXPERTS=triton.next_power_of_2(num_local_experts),
        **options,
    )
    return sorted_token_ids, expert_ids, num_tokens_post_padded
