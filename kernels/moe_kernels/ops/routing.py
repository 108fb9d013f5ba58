"""What several operations ask of the routing: which local expert a (token, expert) pair has."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

import triton
import triton.language as tl


@triton.jit
def local_expert(
    topk_ids_ptr, pair, mask, expert_map_ptr, num_experts, HAS_EXPERT_MAP: tl.constexpr
):
    """The local expert of each pair (an index into the flattened topk_ids), -1 if it has none."""
    expert = tl.load(topk_ids_ptr + pair, mask=mask, other=-1).to(tl.int32)
    valid = (expert >= 0) & (expert < num_experts)
    if HAS_EXPERT_MAP:
        expert = tl.load(expert_map_ptr + expert, mask=valid, other=-1)
        valid = expert >= 0
    return tl.where(valid, expert, -1)
