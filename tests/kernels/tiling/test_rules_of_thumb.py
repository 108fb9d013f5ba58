"""The tilings of layers: they fit, and both GEMMs agree where they must."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from moe_kernels.tiling import rules_of_thumb  # noqa: E402

SHARED_MEMORY = 232448  # of one program on Hopper


def weights(dtype, experts, hidden, intermediate):
    empty = torch.empty
    return (
        empty(experts, 2 * intermediate, hidden, dtype=dtype, device="meta"),
        empty(experts, hidden, intermediate, dtype=dtype, device="meta"),
    )


@given(
    num_local_pairs=st.floats(0.1, 1e7),
    experts=st.integers(1, 1024),
    hidden=st.integers(1, 8192),
    intermediate=st.integers(1, 16384),
    dtype=st.sampled_from(
        [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn],
    ),
    blocks=st.booleans(),
)
def test_tilings_fit(num_local_pairs, experts, hidden, intermediate, dtype, blocks):
    shape = (128, 128) if blocks and dtype == torch.float8_e4m3fn else None
    w13, w2 = weights(dtype, experts, hidden, intermediate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules_of_thumb, "_shared_memory", lambda _: SHARED_MEMORY)
        config = rules_of_thumb.rules_of_thumb(num_local_pairs, w13, w2, shape)
    assert config.up.block_m == config.down.block_m
    for tile in config:
        sizes = (tile.block_m, tile.block_n, tile.block_k, tile.num_warps)
        assert all(size & (size - 1) == 0 for size in sizes)
        assert tile.group_m >= 1
        stage = (tile.block_m + tile.block_n) * tile.block_k * dtype.itemsize
        assert 2 <= tile.num_stages <= SHARED_MEMORY // stage


def test_rows_grow_with_the_load():
    w13, w2 = weights(torch.bfloat16, 8, 512, 1024)
    rows = [
        rules_of_thumb.rules_of_thumb(8 * load, w13, w2).up.block_m for load in (1, 16, 32, 4096)
    ]
    assert rows == sorted(rows)
    assert len(set(rows)) == 4


def test_less_shared_memory_means_fewer_stages():
    w13, w2 = weights(torch.bfloat16, 8, 4096, 4096)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules_of_thumb, "_shared_memory", lambda _: SHARED_MEMORY)
        many = rules_of_thumb.rules_of_thumb(1e5, w13, w2).up.num_stages
        patch.setattr(rules_of_thumb, "_shared_memory", lambda _: 100 * 1024)
        assert 1 <= rules_of_thumb.rules_of_thumb(1e5, w13, w2).up.num_stages < many
