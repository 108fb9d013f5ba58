"""The tilings of layers: they fit, and both GEMMs agree where they must."""

from functools import partial

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from moe_kernels.tensor_spec import spec_of  # noqa: E402
from moe_kernels.tiling import rules_of_thumb  # noqa: E402
from moe_kernels.tiling.tile_config import FEW_ROWS  # noqa: E402

SHARED_MEMORY = 232448  # of one program on Hopper


def weights(dtype, experts, hidden, intermediate):
    empty = partial(torch.empty, dtype=dtype, device="meta")
    return (
        spec_of(empty(experts, 2 * intermediate, hidden)),
        spec_of(empty(experts, hidden, intermediate)),
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
        patch.setattr(rules_of_thumb, "shared_memory", lambda _: SHARED_MEMORY)
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
        patch.setattr(rules_of_thumb, "shared_memory", lambda _: SHARED_MEMORY)
        many = rules_of_thumb.rules_of_thumb(1e5, w13, w2).up.num_stages
        patch.setattr(rules_of_thumb, "shared_memory", lambda _: 100 * 1024)
        assert 1 <= rules_of_thumb.rules_of_thumb(1e5, w13, w2).up.num_stages < many


@pytest.mark.parametrize(
    ("dtype", "load"), [(torch.float8_e4m3fn, 96), (torch.bfloat16, 256), (torch.float16, 256)]
)
def test_warpgroups_share_the_work_of_many_pairs_per_expert(dtype, load):
    w13, w2 = weights(dtype, 8, 4096, 4096)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules_of_thumb, "specializes_warps", lambda _: True)
        many = rules_of_thumb.rules_of_thumb(8 * load, w13, w2)
        fewer = rules_of_thumb.rules_of_thumb(8 * load - 1, w13, w2)
        assert all(tile.warp_specialized for tile in many)
        assert not any(tile.warp_specialized for tile in fewer)
        assert many.up.block_k * dtype.itemsize == 128
        lying = [w._replace(strides=(w.strides[0], 1, w.shape[1])) for w in (w13, w2)]
        transposed = rules_of_thumb.rules_of_thumb(8 * load, *lying)
        assert transposed.up.warp_specialized == (dtype.itemsize == 2)


def test_few_rows_of_transposed_weights_are_read_in_longer_runs():
    w13, w2 = weights(torch.bfloat16, 32, 2880, 2880)
    lying = [w._replace(strides=(w.strides[0], 1, w.shape[1])) for w in (w13, w2)]
    for pairs in (4, 256):
        wide, narrow = rules_of_thumb.rules_of_thumb(pairs, *lying)
        assert (wide.block_m, wide.block_n) == (16, 128)
        assert narrow.block_n == rules_of_thumb.rules_of_thumb(pairs, w13, w2).up.block_n == 64


PACKED = {"int4": 4, "mxfp4": 4, "uint8": 8}
"""Bits of a weight."""


def packed_config(num_local_pairs, weight_format, dtype=torch.bfloat16):
    w13, w2 = weights(torch.uint8, 8, 4096, 4096)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules_of_thumb, "specializes_warps", lambda _: True)
        return rules_of_thumb.rules_of_thumb(num_local_pairs, w13, w2, None, weight_format, dtype)


@pytest.mark.parametrize("weight_format", PACKED)
@pytest.mark.parametrize("load", [1, 8, 9, 24, 25, 48, 101, 400, 401, 4096])
def test_stages_have_room_where_warpgroups_share_the_work(load, weight_format):
    tile = packed_config(8 * load, weight_format).up
    assert tile.warp_specialized
    assert tile.block_m >= load or load > 24
    # Scales and zero points of 128 columns as well.
    row = tile.block_k * PACKED[weight_format] // 8 + tile.block_k // 128 * 2 * 4
    stage = tile.block_n * row + tile.block_m * 2 * tile.block_k
    programs = 2 if load <= 48 else 1
    assert programs * (tile.num_stages * stage + 6144) <= 228 << 10


@pytest.mark.parametrize("weight_format", PACKED)
@pytest.mark.parametrize("load", [1, 8, 24])
def test_few_pairs_read_128_bytes_of_a_row_at_a_time(load, weight_format):
    tile = packed_config(8 * load, weight_format).up
    assert tile.block_k * PACKED[weight_format] // 8 == 128


@pytest.mark.parametrize("weight_format", PACKED)
def test_warpgroups_do_not_share_few_pairs_nor_other_dtypes(weight_format):
    assert not packed_config(4, weight_format).up.warp_specialized
    assert not packed_config(64, weight_format, torch.float16).up.warp_specialized
    assert not packed_config(64, "nvfp4").up.warp_specialized


def packed(fmt, experts=128, hidden=2048, intermediate=768):
    size = 1 if fmt == "uint8" else 2
    empty = partial(torch.empty, dtype=torch.uint8, device="meta")
    return (
        spec_of(empty(experts, 2 * intermediate, hidden // size)),
        spec_of(empty(experts, hidden, intermediate // size)),
    )


@pytest.mark.parametrize("fmt", ["int4", "uint8", "mxfp4"])
def test_few_rows_have_their_program_where_there_is_one(fmt):
    ask = partial(rules_of_thumb.rules_of_thumb, weight_format=fmt)
    for pairs, few_rows in ((8, 8), (16, 1)):
        config = ask(pairs, *packed(fmt), few_rows=few_rows)
        assert config.up.block_m == config.down.block_m == FEW_ROWS
        assert ask(pairs, *packed(fmt)).up.block_m > FEW_ROWS
    assert ask(24, *packed(fmt, experts=8), few_rows=1).up.block_m > FEW_ROWS, "too many per expert"
    assert ask(128, *packed(fmt), few_rows=1).up.block_m > FEW_ROWS
    assert ask(8, *packed(fmt), dtype=torch.float16, few_rows=8).up.block_m > FEW_ROWS


def test_fp8_has_the_program_for_few_rows_where_little_is_read():
    def ask(pairs, experts, hidden, intermediate, few_rows=1):
        weights13, weights2 = weights(torch.float8_e4m3fn, experts, hidden, intermediate)
        return rules_of_thumb.rules_of_thumb(
            pairs, weights13, weights2, (128, 128), few_rows=few_rows
        ).up.block_m

    assert ask(8, 128, 2048, 768, 8) == FEW_ROWS
    assert ask(1, 32, 7168, 2048) == FEW_ROWS
    assert ask(64, 256, 7168, 256) == FEW_ROWS, "short rows"
    assert ask(64, 128, 2048, 768) > FEW_ROWS
    assert ask(2, 8, 4096, 14336, 2) > FEW_ROWS
    assert ask(8, 128, 2048, 768, 0) > FEW_ROWS, "there is no such program"


def test_all_experts_of_a_token_together_take_more_warps():
    alone, several = (
        rules_of_thumb.rules_of_thumb(8, *packed("int4"), weight_format="int4", few_rows=few_rows)
        for few_rows in (8, 1)
    )
    assert alone.down.num_warps > several.down.num_warps


@pytest.mark.parametrize("fmt", ["int4", "uint8"])
def test_a_token_whose_experts_are_large_has_wide_tiles(fmt):
    def rows(experts, hidden, intermediate):
        ask = partial(rules_of_thumb.rules_of_thumb, weight_format=fmt, few_rows=2)
        return ask(2, *packed(fmt, experts, hidden, intermediate)).up.block_n

    assert rows(8, 4096, 14336) > rows(8, 4096, 3584)


def test_one_token_loads_all_of_a_few_turns_at_once():
    def down(experts, hidden, intermediate):
        specs = weights(torch.float8_e4m3fn, experts, hidden, intermediate)
        return rules_of_thumb.rules_of_thumb(8, *specs, few_rows=8).down

    assert down(128, 2048, 768).num_stages == 6, "each of 8 warps has 6 chunks of 128 bytes"
    assert down(128, 2048, 896).num_stages == 4, "of 7"
    assert (down(128, 2048, 768).block_n, down(256, 7168, 256).block_n) == (16, 32), "many tiles"
