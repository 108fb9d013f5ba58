"""Rows that Triton writes to several buffers, as if of ranks; interpreted where there is no GPU."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from moe_kernels.ops.rows import sum_rows
from moe_kernels.ops.symmetric_rows import send_sums, send_tokens

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CAPACITY, TOP_K, HIDDEN, GROUPS = 5, 4, 40, 3
TOKENS = (5, 3, 0)
"""Of each rank."""
OWNERS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3], dtype=torch.int32, device=DEVICE)
"""Of each expert; 3: no rank."""


def buffers_of(size):
    made = [torch.full((size,), 77, dtype=torch.uint8, device=DEVICE) for _ in TOKENS]
    return made, torch.tensor([x.data_ptr() for x in made], device=DEVICE)


@pytest.fixture(scope="module", params=[None, GROUPS])
def sent(request):
    """What every rank had, and what it got; with and without scales."""
    torch.manual_seed(0)
    size, groups = len(TOKENS), request.param or 0
    num_rows = size * CAPACITY
    offsets, sizes = [0], (HIDDEN * 2, groups * 4, TOP_K * 4, TOP_K * 4)
    for columns in sizes:
        offsets.append(offsets[-1] + -(-num_rows * columns // 256) * 256)
    buffers, addresses = buffers_of(offsets[-1])
    had = []
    for rank, count in enumerate(TOKENS):
        tokens = torch.randn(count, 2 * HIDDEN, device=DEVICE).half()[:, :HIDDEN]
        scale = torch.rand(count, groups, device=DEVICE) if groups else None
        weights = torch.rand(count, TOP_K, device=DEVICE).double()
        ids = torch.randint(-2, 10, (count, TOP_K), device=DEVICE)
        ids[:1] += 2**32  # whose low bits name an expert
        rows = torch.full((count, size), -5, device=DEVICE)
        arguments = tokens, scale, weights, ids, OWNERS, addresses, rows, offsets[1:4]
        send_tokens(*arguments, CAPACITY, rank)
        had.append(SimpleNamespace(tokens=tokens, scale=scale, weights=weights, ids=ids, rows=rows))
    got = []
    for buffer in buffers:
        parts = [buffer[a : a + num_rows * n] for a, n in zip(offsets, sizes, strict=False)]
        dtypes = torch.float16, torch.float32, torch.float32, torch.int32
        views = [x.view(t).view(num_rows, -1) for x, t in zip(parts, dtypes, strict=True) if len(x)]
        names = ["tokens", *(["scale"] if groups else []), "weights", "ids"]
        got.append(SimpleNamespace(**dict(zip(names, views, strict=True))))
    return had, got


def expected_ids(had, rank):
    known = (had.ids >= 0) & (had.ids < len(OWNERS))
    mine = known & (OWNERS[torch.where(known, had.ids, 0)] == rank)
    return torch.where(mine, had.ids, -1).int()


def test_tokens_go_to_the_ranks_that_have_experts_for_them(sent):
    for rank, got in enumerate(sent[1]):
        for of, had in enumerate(sent[0]):
            first, count = of * CAPACITY, len(had.ids)
            ids = expected_ids(had, rank)
            goes = (ids >= 0).any(1)
            rows = torch.arange(first, first + count, device=DEVICE)[goes]
            assert torch.equal(got.ids[first : first + count], ids)
            assert bool((got.ids[first + count : first + CAPACITY] == -1).all())
            assert torch.equal(got.tokens[rows], had.tokens[goes])
            assert torch.equal(got.weights[rows], had.weights[goes].float())
            if had.scale is not None:
                assert torch.equal(got.scale[rows], had.scale[goes])
            places = rank * CAPACITY + torch.arange(count, device=DEVICE)
            nowhere = len(TOKENS) * CAPACITY
            assert torch.equal(had.rows[:, rank], torch.where(goes, places, nowhere))


@pytest.mark.parametrize("summed", [False, True])
def test_sums_return_to_the_tokens_of_each_rank(sent, summed):
    size = len(TOKENS)
    buffers, addresses = buffers_of(size * CAPACITY * HIDDEN * 2)
    total = torch.zeros(size * CAPACITY, HIDDEN, device=DEVICE)
    for rank, got in enumerate(sent[1]):
        x = torch.randn(size * CAPACITY, TOP_K, HIDDEN, device=DEVICE).half()
        x[got.ids < 0] = torch.nan
        weights = torch.where(got.ids >= 0, got.weights, 0)
        parts = (torch.where(got.ids[..., None] >= 0, x, 0).float() * weights[..., None]).sum(1)
        total += parts
        given = parts.half() if summed else x.flatten(0, 1)
        send_sums(given, got.weights, got.ids, addresses, CAPACITY, rank)
    for rank, (had, buffer) in enumerate(zip(sent[0], buffers, strict=True)):
        returned = buffer.view(torch.float16).view(-1, HIDDEN)
        output = sum_rows(returned, had.rows, None).float()
        expected = total[rank * CAPACITY :][: len(output)]
        torch.testing.assert_close(output, expected, atol=1e-2, rtol=1e-2)


def test_nothing_is_sent_without_a_capacity():
    none = torch.zeros(0, TOP_K, device=DEVICE)
    buffers, addresses = buffers_of(256)
    rows = torch.zeros(0, len(TOKENS), dtype=torch.int64, device=DEVICE)
    send_tokens(none, None, none, none.int(), OWNERS, addresses, rows, [0, 0, 0], 0, 0)
    send_sums(none, none, none.int(), addresses, 0, 0)
    assert all(bool((x == 77).all()) for x in buffers)
