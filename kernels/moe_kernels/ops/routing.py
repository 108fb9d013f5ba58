"""What several operations ask of the routing: which local expert a (token, expert) pair has."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl


@triton.jit
def local_expert(
    topk_ids_ptr, pair, mask, expert_map_ptr, num_experts, HAS_EXPERT_MAP: tl.constexpr
):
    """The local expert of each pair (an index into the flattened topk_ids), -1 if it has none.

    :meth:`moe_kernels.routing.Routing.local_experts` says the same in torch.
    """
    expert = tl.load(topk_ids_ptr + pair, mask=mask, other=-1)
    valid = (expert >= 0) & (expert < num_experts)
    expert = expert.to(tl.int32)
    if HAS_EXPERT_MAP:
        expert = tl.load(expert_map_ptr + expert, mask=valid, other=-1)
        valid = expert >= 0
    return tl.where(valid, expert, -1)


@triton.jit
def pairs_of_slot(
    slot,
    index,
    topk_ids_ptr,
    num_pairs,
    expert_map_ptr,
    num_experts,
    HAS_EXPERT_MAP: tl.constexpr,
    SLOTS_ARE_EXPERTS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """The expert that ``slot`` stands for and which pairs it has, found by reading all ids.

    A slot is a local expert, or, where pairs are fewer than experts, the first pair of one; any
    other slot has no pairs. Returns the expert, how many pairs it has, and [PAIRS] the rank of
    each pair among them, -1 for pairs of other experts. PAIRS: at least num_pairs. index: [PAIRS],
    from 0 on.
    """
    experts = local_expert(
        topk_ids_ptr, index, index < num_pairs, expert_map_ptr, num_experts, HAS_EXPERT_MAP
    )
    if SLOTS_ARE_EXPERTS:
        expert = slot
        mine = experts == expert
        count = tl.sum(mine.to(tl.int32))
    else:
        expert = tl.sum(tl.where(index == slot, experts, 0))
        mine = experts == expert
        first = tl.min(tl.where(mine, index, PAIRS))
        count = tl.where((expert >= 0) & (first == slot), tl.sum(mine.to(tl.int32)), 0)
    rank = tl.where(mine, tl.cumsum(mine.to(tl.int32), 0) - 1, -1)
    return expert, count, rank


@triton.jit
def local_experts(
    topk_ids_ptr,
    num_pairs,
    expert_map_ptr,
    num_experts,
    HAS_EXPERT_MAP: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """The local expert of each of PAIRS pairs, -1 if it has none, and how many have one.

    Numbers, which the compiler knows to be the same in all threads.
    """
    experts = ()
    count = 0
    for pair in tl.static_range(PAIRS):
        expert = local_expert(
            topk_ids_ptr, pair, pair < num_pairs, expert_map_ptr, num_experts, HAS_EXPERT_MAP
        )
        experts = experts + (expert,)  # noqa: RUF005
        count += (expert >= 0).to(tl.int32)
    return experts, count


@triton.jit
def pair_of_rank(rank, experts):
    """The pair that has a local expert as the ``rank``-th, and its expert."""
    pair = 0
    expert = 0
    left = rank
    for i in tl.static_range(len(experts)):
        local = experts[i] >= 0
        mine = local & (left == 0)
        pair = tl.where(mine, i, pair)
        expert = tl.where(mine, experts[i], expert)
        left -= local.to(tl.int32)
    return pair, expert


@triton.jit
def pairs_of_ranks(rank, wanted, PAIRS: tl.constexpr):
    """The pair that has each of the ``wanted`` ranks, 0 for a rank that none has."""
    hit = rank[None, :] == wanted[:, None]
    return tl.sum(tl.where(hit, tl.arange(0, PAIRS)[None, :], 0), 1)
