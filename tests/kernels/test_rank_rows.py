"""Rows for other ranks, placed and packed in Triton, as in torch; interpreted without a GPU."""

import pytest
import torch

pytest.importorskip("triton")

from moe_kernels.ops import rank_rows as ops
from moe_kernels.prepare_finalize.all_to_all import places_of
from moe_kernels.prepare_finalize.rows import RowLayout, TokenRows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NUM_EXPERTS = 12


def drawn(num_tokens, num_ranks, top_k=3):
    """Ids, some of which name no expert, and the rank of each expert, some of them on none."""
    generator = torch.Generator().manual_seed(num_tokens)
    size = (num_tokens, top_k)
    ids = torch.randint(-1, NUM_EXPERTS + 1, size, generator=generator)
    ids[::7] += 2**32  # whose low bits name an expert
    owners = torch.randint(0, num_ranks + 1, (NUM_EXPERTS,), generator=generator)
    return ids.to(DEVICE), owners.int().to(DEVICE)


@pytest.mark.parametrize("capacity", [None, 1, 9, 200])
@pytest.mark.parametrize("num_ranks", [1, 2, 5])
@pytest.mark.parametrize("num_tokens", [0, 1, 33, 150])
def test_places_are_those_of_torch(num_tokens, num_ranks, capacity, monkeypatch):
    monkeypatch.setattr(ops, "_MOST_CHUNKS", 4)
    ops._launchers.cache_clear()
    ids, owners = drawn(num_tokens, num_ranks)
    expected = places_of(ids, owners, num_ranks, capacity)
    found = ops.rank_rows(ids, owners, num_ranks, capacity)
    for value, right in zip(found, expected, strict=True):
        assert (value is None) == (right is None)
        assert right is None or (value.dtype == right.dtype and torch.equal(value, right))


@pytest.mark.parametrize("num_tokens", [0, 6])
@pytest.mark.parametrize("groups", [0, 3])
@pytest.mark.parametrize(
    ("dtype", "hidden", "gap"),
    [(torch.float16, 72, 0), (torch.float16, 71, 3), (torch.int8, 70, 2), (torch.int8, 1100, 0)],
)
def test_rows_are_packed_as_in_torch(dtype, hidden, gap, groups, num_tokens):
    ids, _ = drawn(num_tokens, 2)
    values = torch.randint(-100, 100, (num_tokens, hidden + gap), device=DEVICE).to(dtype)
    rows = TokenRows(
        values[:, gap:],
        torch.rand(num_tokens, groups, device=DEVICE) if groups else None,
        torch.rand(num_tokens, 3, device=DEVICE).double(),
        ids,
        torch.full((1, 1), 41, dtype=torch.int32, device=DEVICE).expand(max(1, num_tokens), 1),
    )
    index = torch.tensor([4, 0, -1, 0, 5] if num_tokens else [-1, -1], device=DEVICE)
    layout = RowLayout(rows)
    packed = torch.full((len(index), layout.row_bytes), 77, dtype=torch.uint8, device=DEVICE)
    ops.pack_rows(index, *rows, NUM_EXPERTS, TokenRows(*layout._views(packed)))
    found = layout.unpack(packed)
    known = torch.where((ids >= 0) & (ids < NUM_EXPERTS), ids, -1)
    named = index >= 0
    source = index[named]
    assert bool((found.needed == 41).all())
    assert torch.equal(found.topk_ids[named], known[source].int())
    assert bool((found.topk_ids[~named] == -1).all())
    assert torch.equal(found.topk_weights[named], rows.topk_weights[source].float())
    assert torch.equal(found.hidden_states[named], rows.hidden_states[source])
    assert bool((packed[~named, : hidden * dtype.itemsize] == 77).all())
    if groups:
        assert torch.equal(found.scale[named], rows.scale[source])
