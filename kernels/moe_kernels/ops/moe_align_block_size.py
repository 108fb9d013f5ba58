"""Sort (token, expert) pairs by expert, each expert's pairs padded to whole blocks."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from moe_kernels.ops.programmatic_launch import launch_options, wait_for_previous
from moe_kernels.ops.routing import local_expert


class SortedPairs(NamedTuple):
    """Pairs by expert; see :func:`moe_align_block_size`."""

    sorted_token_ids: torch.Tensor
    expert_ids: torch.Tensor
    num_tokens_post_padded: torch.Tensor


@triton.jit(do_not_specialize=["num_pairs", "num_experts", "num_local_experts"])
def _count_kernel(
    topk_ids_ptr,
    expert_map_ptr,
    counts_ptr,
    num_pairs,
    num_experts,
    num_local_experts,
    HAS_EXPERT_MAP: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    wait_for_previous(PROGRAMMATIC)
    pair = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    local = local_expert(
        topk_ids_ptr, pair, pair < num_pairs, expert_map_ptr, num_experts, HAS_EXPERT_MAP
    )
    # The last bin, which is no expert, takes what has none.
    counts = tl.histogram(tl.where(local >= 0, local, EXPERTS - 1), EXPERTS)
    tl.store(counts_ptr + tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS), counts)


@triton.jit(do_not_specialize=["num_pairs", "num_experts", "num_local_experts", "num_chunks"])
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
    num_chunks,
    HAS_EXPERT_MAP: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    wait_for_previous(PROGRAMMATIC)
    this_chunk = tl.program_id(0)
    expert = tl.arange(0, EXPERTS)
    is_expert = expert < num_local_experts
    total = tl.zeros((EXPERTS,), dtype=tl.int32)
    before = tl.zeros((EXPERTS,), dtype=tl.int32)
    for start in range(0, num_chunks, ROWS):
        chunk = start + tl.arange(0, ROWS)
        mask = (chunk < num_chunks)[:, None] & is_expert[None, :]
        counts_ptrs = counts_ptr + chunk[:, None] * EXPERTS + expert[None, :]
        counts = tl.load(counts_ptrs, mask=mask, other=0)
        total += tl.sum(counts, 0)
        before += tl.sum(tl.where((chunk < this_chunk)[:, None], counts, 0), 0)
    blocks = tl.cdiv(total, BLOCK_SIZE)
    first_block = tl.cumsum(blocks, 0) - blocks
    if this_chunk == 0:
        tl.store(num_tokens_post_padded_ptr, tl.sum(blocks) * BLOCK_SIZE)

    # Programs share the experts: whose blocks are named and padded by which one.
    mine = expert % num_chunks == this_chunk
    for block in range(tl.max(tl.where(mine, blocks, 0))):
        tl.store(expert_ids_ptr + first_block + block, expert, mask=mine & (block < blocks))
    padding = tl.where(mine, blocks * BLOCK_SIZE - total, 0)
    end = first_block * BLOCK_SIZE + total
    for index in range(tl.max(padding)):
        tl.store(sorted_token_ids_ptr + end + index, num_pairs, mask=index < padding)

    index = tl.arange(0, CHUNK)
    pair = this_chunk * CHUNK + index
    local = local_expert(
        topk_ids_ptr, pair, pair < num_pairs, expert_map_ptr, num_experts, HAS_EXPERT_MAP
    )
    rank = tl.zeros((CHUNK,), dtype=tl.int32)
    for start in range(0, CHUNK, COLUMNS):
        other_index = start + tl.arange(0, COLUMNS)
        other_pair = this_chunk * CHUNK + other_index
        other = local_expert(
            topk_ids_ptr,
            other_pair,
            other_pair < num_pairs,
            expert_map_ptr,
            num_experts,
            HAS_EXPERT_MAP,
        )
        earlier = other_index[None, :] < index[:, None]
        rank += tl.sum(((other[None, :] == local[:, None]) & earlier).to(tl.int32), 1)
    base = tl.gather(first_block * BLOCK_SIZE + before, tl.maximum(local, 0), 0)
    tl.store(sorted_token_ids_ptr + base + rank, pair, mask=local >= 0)


def moe_align_block_size(
    topk_ids: torch.Tensor,
    block_size: int,
    num_local_experts: int,
    global_num_experts: int,
    expert_map: torch.Tensor | None = None,
) -> SortedPairs:
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
    # Every pair of a chunk is compared with every other one; every program reads all counts.
    chunk = 256 if num_pairs <= 16384 else 512
    num_chunks = triton.cdiv(num_pairs, chunk)
    experts = triton.next_power_of_2(num_local_experts + 1)
    counts = topk_ids.new_empty(num_chunks, experts, dtype=torch.int32)
    sorted_token_ids = topk_ids.new_empty(max_blocks * block_size, dtype=torch.int32)
    expert_ids = topk_ids.new_empty(max_blocks, dtype=torch.int32)
    num_tokens_post_padded = topk_ids.new_empty(1, dtype=torch.int32)
    options: dict[str, Any] = {"HAS_EXPERT_MAP": expert_map is not None, "num_warps": 8}
    options |= {"EXPERTS": experts, "CHUNK": chunk} | launch_options(topk_ids.device)
    _count_kernel[(num_chunks,)](
        topk_ids,
        expert_map,
        counts,
        num_pairs,
        global_num_experts,
        num_local_experts,
        **options,
    )
    _scatter_kernel[(num_chunks,)](
        topk_ids,
        expert_map,
        counts,
        sorted_token_ids,
        expert_ids,
        num_tokens_post_padded,
        num_pairs,
        global_num_experts,
        num_local_experts,
        num_chunks,
        BLOCK_SIZE=block_size,
        ROWS=max(1, 8192 // experts),
        COLUMNS=32,
        **options,
    )
    return SortedPairs(sorted_token_ids, expert_ids, num_tokens_post_padded)
