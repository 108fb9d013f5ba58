"""What kernels ask of a single token's routing: its local pairs, one after the other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

import triton
import triton.language as tl
from moe_kernels.ops.routing import local_experts, pair_of_rank

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXPERTS = 6


@triton.jit
def _local_pairs(
    ids_ptr, map_ptr, out_ptr, num_pairs, num_experts, mapped: tl.constexpr, pairs: tl.constexpr
):
    experts, count = local_experts(ids_ptr, num_pairs, map_ptr, num_experts, mapped, pairs)
    for rank in range(count):
        pair, expert = pair_of_rank(rank, experts)
        tl.store(out_ptr + 2 * rank, pair)
        tl.store(out_ptr + 2 * rank + 1, expert)


@given(
    st.lists(st.integers(-1, EXPERTS), min_size=1, max_size=4),
    st.none() | st.lists(st.integers(-1, 3), min_size=EXPERTS, max_size=EXPERTS),
)
def test_local_pairs_come_in_the_order_of_the_pairs(ids, expert_map):
    expected = []
    for pair, expert in enumerate(ids):
        local = expert if 0 <= expert < EXPERTS else -1
        if expert_map is not None and local >= 0:
            local = expert_map[local]
        if local >= 0:
            expected += [pair, local]
    out = torch.full((8,), -7, dtype=torch.int32, device=DEVICE)
    topk_ids, mapping = (
        None if x is None else torch.tensor(x, dtype=torch.int32, device=DEVICE)
        for x in (ids, expert_map)
    )
    _local_pairs[(1,)](topk_ids, mapping, out, len(ids), EXPERTS, mapping is not None, 4)
    assert out.tolist() == expected + [-7] * (8 - len(expected))
