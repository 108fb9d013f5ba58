"""Sort (token, expert) pairs by expert, each expert's pairs padded to whole blocks."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.ops.programmatic_launch import (
    is_programmatic,
    launch_attributes,
    wait_for_previous,
)
from moe_kernels.ops.routing import local_expert
from moe_kernels.routing import Routing
from moe_kernels.tensor_spec import TensorSpec, contiguous_spec


class SortedPairs(NamedTuple):
    """Pairs by expert; see :func:`moe_align_block_size`."""

    sorted_token_ids: torch.Tensor
    expert_ids: torch.Tensor
    num_tokens_post_padded: torch.Tensor
    tiles_taken: torch.Tensor
    blocks_of_expert: torch.Tensor


_AT_ONCE = 128
"""So many pairs are compared with each other to find their order."""
_MOST_PROGRAMS = 8192
"""Of tokens that are copied."""
_MOST_CHUNKS = 128
"""Every program reads the counts of all chunks, so that there should not be many."""


@triton.jit
def _fill(ptr, value, size, NUMBER: tl.constexpr):
    """Write ``value`` to a program's share of ``size`` elements, NUMBER at a time."""
    for start in range(tl.program_id(0) * NUMBER, size, tl.num_programs(0) * NUMBER):
        index = start + tl.arange(0, NUMBER)
        tl.store(ptr + index, value, mask=index < size)


@triton.jit
def _counts(local, EXPERTS: tl.constexpr):
    """How many of the pairs each expert has; -1 is no expert."""
    return tl.histogram(tl.maximum(local, 0), EXPERTS, mask=local >= 0)


@triton.jit(do_not_specialize=["num_pairs", "num_experts", "size"])
def _count_kernel(
    topk_ids_ptr,
    expert_map_ptr,
    counts_ptr,
    sorted_token_ids_ptr,
    num_pairs,
    num_experts,
    size,
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
    counts = _counts(local, EXPERTS)
    tl.store(counts_ptr + tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS), counts)
    # What no pair is written to is padding.
    _fill(sorted_token_ids_ptr, num_pairs, size, CHUNK)


@triton.jit(do_not_specialize=["num_pairs", "num_experts", "size"])
def _scatter_kernel(
    topk_ids_ptr,
    expert_map_ptr,
    counts_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    tiles_taken_ptr,
    blocks_of_expert_ptr,
    num_pairs,
    num_experts,
    size,
    HAS_EXPERT_MAP: tl.constexpr,
    PROGRAMMATIC: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHUNK: tl.constexpr,
    AT_ONCE: tl.constexpr,
    ROWS: tl.constexpr,
    COUNTED: tl.constexpr,
):
    wait_for_previous(PROGRAMMATIC)
    this_chunk = tl.program_id(0)
    expert = tl.arange(0, EXPERTS)
    before = tl.zeros((EXPERTS,), dtype=tl.int32)
    if COUNTED:
        total = tl.zeros((EXPERTS,), dtype=tl.int32)
        num_chunks = tl.num_programs(0)
        for start in range(0, num_chunks, ROWS):
            chunk = start + tl.arange(0, ROWS)
            counts_ptrs = counts_ptr + chunk[:, None] * EXPERTS + expert[None, :]
            counts = tl.load(counts_ptrs, mask=(chunk < num_chunks)[:, None], other=0)
            total += tl.sum(counts, 0)
            before += tl.sum(tl.where((chunk < this_chunk)[:, None], counts, 0), 0)
    else:
        pair = tl.arange(0, CHUNK)
        local = local_expert(
            topk_ids_ptr, pair, pair < num_pairs, expert_map_ptr, num_experts, HAS_EXPERT_MAP
        )
        total = _counts(local, EXPERTS)
        _fill(sorted_token_ids_ptr, num_pairs, size, CHUNK)
        tl.debug_barrier()  # pairs are written over it
    blocks = tl.cdiv(total, BLOCK_SIZE)
    if this_chunk == 0:
        tl.store(num_tokens_post_padded_ptr, tl.sum(blocks) * BLOCK_SIZE)
        tl.store(tiles_taken_ptr, 0)
    first_block = tl.cumsum(blocks, 0) - blocks
    following = first_block * BLOCK_SIZE + before

    index = tl.arange(0, AT_ONCE)
    earlier = index[:, None] < index[None, :]
    for start in range(this_chunk * CHUNK, this_chunk * CHUNK + CHUNK, AT_ONCE):
        pair = start + index
        local = local_expert(
            topk_ids_ptr, pair, pair < num_pairs, expert_map_ptr, num_experts, HAS_EXPERT_MAP
        )
        rank = tl.sum(((local[:, None] == local[None, :]) & earlier).to(tl.int32), 0)
        expert_or_0 = tl.maximum(local, 0)
        place = tl.gather(following, expert_or_0, 0) + rank
        tl.store(sorted_token_ids_ptr + place, pair, mask=local >= 0)
        # The first pair of a block names its expert.
        first = (local >= 0) & (place % BLOCK_SIZE == 0)
        block = place // BLOCK_SIZE
        tl.store(expert_ids_ptr + block, local, mask=first)
        of_expert_ptrs = blocks_of_expert_ptr + 2 * block
        tl.store(of_expert_ptrs, tl.gather(first_block, expert_or_0, 0), mask=first)
        tl.store(of_expert_ptrs + 1, tl.gather(blocks, expert_or_0, 0), mask=first)
        if CHUNK > AT_ONCE:
            following += _counts(local, EXPERTS)


def moe_align_block_size(routing: Routing, block_size: int, num_local_experts: int) -> SortedPairs:
    """Sort the pairs of ``routing`` by local expert, without a host sync, always the same way.

    topk_ids are contiguous; pair p is token p // topk. Pairs without a local expert are left out.
    ``block_size`` is a power of two.

    Returns int32 tensors as large as the worst case needs:

    - sorted_token_ids: the pairs, ascending within an expert, experts ascending; an expert's last
      block is filled with M * topk.
    - expert_ids: the local expert of each block.
    - num_tokens_post_padded: [1], how much of sorted_token_ids is meaningful.
    - tiles_taken: [1], 0: how many tiles the programs of a GEMM have taken, which it leaves at 0.
    - blocks_of_expert: [blocks, 2]: of each block, the first of its expert, and how many that has.
    """
    topk_ids, global_num_experts, expert_map = routing
    sizes = topk_ids.numel(), num_local_experts, block_size, global_num_experts
    return prepared_sort(*sizes, expert_map is not None, topk_ids.device)(topk_ids, expert_map)


class Sort(NamedTuple):
    """:func:`moe_align_block_size` made ready for so many pairs."""

    size: int
    """Of sorted_token_ids."""
    blocks: int
    counts_shape: tuple[int, int]
    counting: Launcher | None
    """None: there is one chunk, and nothing to count."""
    scattering: Launcher

    def __call__(self, topk_ids: torch.Tensor, expert_map: torch.Tensor | None) -> SortedPairs:
        """The pairs of a routing."""
        sorted_token_ids = topk_ids.new_empty(self.size, dtype=torch.int32)
        expert_ids = topk_ids.new_empty(self.blocks, dtype=torch.int32)
        num_tokens_post_padded = topk_ids.new_empty(1, dtype=torch.int32)
        tiles_taken = topk_ids.new_empty(1, dtype=torch.int32)
        blocks_of_expert = topk_ids.new_empty((self.blocks, 2), dtype=torch.int32)
        result = SortedPairs(
            sorted_token_ids, expert_ids, num_tokens_post_padded, tiles_taken, blocks_of_expert
        )
        counts = None
        if self.counting is not None:
            counts = topk_ids.new_empty(self.counts_shape, dtype=torch.int32)
            self.counting(topk_ids, expert_map, counts, sorted_token_ids)
        self.scattering(topk_ids, expert_map, counts, *result)
        return result


@kept
def prepared_sort(
    num_pairs: int,
    num_local_experts: int,
    block_size: int,
    num_experts: int,
    has_expert_map: bool,
    device: torch.device,
) -> Sort:
    """:func:`moe_align_block_size` for so many pairs."""
    num_active = min(num_local_experts, num_pairs)
    max_blocks = num_active + (num_pairs - num_active) // block_size
    size = max_blocks * block_size
    chunk = max(_AT_ONCE, triton.next_power_of_2(triton.cdiv(num_pairs, _MOST_CHUNKS)))
    num_chunks = triton.cdiv(num_pairs, chunk)
    experts = max(2, triton.next_power_of_2(num_local_experts))
    sizes = (num_pairs, num_experts, size)
    constants = {
        "HAS_EXPERT_MAP": has_expert_map,
        "PROGRAMMATIC": is_programmatic(device),
        "EXPERTS": experts,
        "CHUNK": chunk,
    }
    options = {"num_warps": 4, **launch_attributes(device)}
    of_scatter = {
        "BLOCK_SIZE": block_size,
        "AT_ONCE": _AT_ONCE,
        "ROWS": max(1, 4096 // experts),
        "COUNTED": num_chunks > 1,
    }
    return Sort(
        size,
        max_blocks,
        (num_chunks, experts),
        Launcher(_count_kernel, (num_chunks,), sizes, constants, **options)
        if num_chunks > 1
        else None,
        Launcher(_scatter_kernel, (num_chunks,), sizes, constants | of_scatter, **options),
    )


@triton.jit(do_not_specialize=["num_pairs"])
def _sort_tokens_kernel(
    x_ptr,
    out_ptr,
    sorted_token_ids_ptr,
    num_tokens_post_padded_ptr,
    num_pairs,
    top_k,
    columns,
    stride_m,
    stride_k,
    PROGRAMMATIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    wait_for_previous(PROGRAMMATIC)
    number = tl.load(num_tokens_post_padded_ptr)
    for place in range(tl.program_id(0), number, tl.num_programs(0)):
        pair = tl.load(sorted_token_ids_ptr + place)
        if pair < num_pairs:  # else it is padding
            x_row = x_ptr + (pair // top_k).to(tl.int64) * stride_m
            out_row = out_ptr + (tl.zeros((), tl.int64) + place) * columns
            for start in range(0, columns, BLOCK):
                column = start + tl.arange(0, BLOCK)
                x = tl.load(x_row + column * stride_k, mask=column < columns)
                tl.store(out_row + column, x, mask=column < columns)


class SortedTokens(NamedTuple):
    """Tokens, made ready to be copied to where their sorted pairs are."""

    values: TensorSpec
    launcher: Launcher

    def __call__(
        self,
        x: torch.Tensor,
        sorted_token_ids: torch.Tensor | None,
        num_tokens_post_padded: torch.Tensor | None,
    ) -> torch.Tensor:
        """A row of ``x`` for each of the sorted pairs; those of padding are not written."""
        out = x.new_empty(self.values.shape)
        self.launcher(x, out, sorted_token_ids, num_tokens_post_padded)
        return out


@kept
def sorted_tokens(x: TensorSpec, number: int, top_k: int) -> SortedTokens:
    """For the tokens ``x`` [M, H]; ``number``: of rows, as many as sorted_token_ids."""
    values = contiguous_spec((number, x.shape[1]), x.dtype, x.device)
    launcher = Launcher(
        _sort_tokens_kernel,
        (min(number, _MOST_PROGRAMS),),
        (x.shape[0] * top_k, top_k, x.shape[1], *x.strides),
        {"PROGRAMMATIC": is_programmatic(x.device), "BLOCK": 2048},
        **launch_attributes(x.device),
    )
    return SortedTokens(values, launcher)
