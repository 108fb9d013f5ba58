"""The search for tilings: which are tried, and that the fastest is found with few measurements."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from moe_kernels.benchmark.tune.search import Search, tiles_for  # noqa: E402
from moe_kernels.tiling.tile_config import LayerConfig  # noqa: E402
from tilings import START, separable  # noqa: E402


def test_the_search_finds_the_best_tile_of_each_gemm():
    tiles = tiles_for(12, 2, 4096, 4096)
    search = Search(lambda config, _: separable(config))
    best = search.run(START, tiles)
    assert separable(best) == min(
        separable(LayerConfig(up, down))
        for up in tiles
        for down in tiles
        if up.block_m == down.block_m
    )
    assert len(search.times) < len(tiles) ** 2 / 4


def test_slow_tilings_are_measured_least():
    replays = {}

    def time_us(config: LayerConfig, count: int) -> float:
        replays[config] = replays.get(config, 0) + count
        return separable(config)

    tiles = tiles_for(12, 2, 4096, 4096)
    best = Search(time_us).run(START, tiles)
    slowest = max(replays, key=separable)
    assert replays[slowest] == min(replays.values())
    assert replays[best] >= 15


def test_what_is_not_worth_it_changes_nothing():
    assert Search(lambda config, _: 99.5 if config != START else 100).run(
        START, tiles_for(1, 2, 4096, 4096)
    ) == START  # fmt: skip


def test_what_does_not_run_is_not_chosen():
    def time_us(config: LayerConfig, _: int) -> float:
        return math.inf if config.up.block_n > 32 and config != START else separable(config)

    best = Search(time_us).run(START, tiles_for(12, 2, 4096, 4096))
    assert best.up.block_n <= 32 or best == START


@given(limit=st.integers(0, 60), load_=st.sampled_from([0.5, 12, 300]))
def test_a_search_that_is_over_ends_with_the_fastest_so_far(limit, load_):
    calls = []

    def time_us(config: LayerConfig, _: int) -> float:
        calls.append(config)
        return separable(config)

    search = Search(time_us, lambda: len(calls) >= limit)
    best = search.run(START, tiles_for(load_, 2, 4096, 4096))
    assert len(calls) <= max(limit, 1)
    assert best in search.times
    assert separable(best) <= separable(START)


@given(
    load_=st.floats(0.001, 1e5),
    activation_bytes=st.sampled_from([1, 2, 4]),
    rows=st.integers(1, 20000),
    columns=st.integers(16, 20000),
    packed=st.booleans(),
)
def test_there_are_few_tilings_and_they_fit(load_, activation_bytes, rows, columns, packed):
    tiles = tiles_for(load_, activation_bytes, rows, columns, packed)
    assert 1 <= len(tiles) <= 13 * 4  # of four groups, which only the best tile is tried with
    assert len(set(tiles)) == len(tiles)
    for tile in tiles:
        stage = (tile.block_m + tile.block_n) * tile.block_k * activation_bytes
        assert tile.block_k <= columns
        assert stage * tile.num_stages <= 232448
        assert tile.num_stages >= 2


@pytest.mark.parametrize("load", [1, 16, 64, 4096])
def test_packed_weights_are_tried_with_warpgroups_that_share_the_work(load):
    plain = tiles_for(load, 2, 4096, 4096, packed=True)
    tiles = tiles_for(load, 2, 4096, 4096, packed=True, specialized=True)
    added = set(tiles) - set(plain)
    assert set(plain) <= set(tiles)
    assert all(tile.warp_specialized for tile in added)
    assert added
