from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.models import Deployment, derive_layers
from moe_rules.models.shard_checks import fp8_block_for_shard, marlin_takes_shape
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from tests.models.checkpoints import FP8_BLOCKS, H100, qwen3

CUDA = {"device": "cuda"}


def shard(intermediate_size: int, hidden_dim: int = 2048, tp_size: int = 1) -> FusedMoEConfig:
    parallel = FusedMoEParallelConfig.make(tp_size=tp_size)
    return FusedMoEConfig(
        num_experts=8,
        experts_per_token=2,
        hidden_dim=hidden_dim,
        intermediate_size=intermediate_size,
        activation="silu",
        routing_method="Default",
        in_dtype="bf16",
        moe_parallel_config=parallel,
    )


@pytest.mark.parametrize(
    ("block", "size", "tp_size", "expected"),
    [
        ((128, 128), 768, 1, (128, 128)),
        ((128, 128), 768, 4, (64, 64)),
        ((128, 128), 1536, 8, (64, 64)),
        ((128, 128), 1536, 4, (128, 128)),
        ((64, 128), 64, 1, (64, 128)),  # columns are not cut without tensor parallelism
        ((128, 128), 1408, 8, (128, 128)),  # 176 = 16 * 11: smaller than the smallest block
    ],
)
def test_block_is_refined_where_the_shard_cuts_it(
    block: tuple[int, int], size: int, tp_size: int, expected: tuple[int, int]
) -> None:
    assert fp8_block_for_shard(block, shard(size, tp_size=tp_size)) == expected


def test_a_layer_says_that_its_blocks_are_refined() -> None:
    config = qwen3(moe_intermediate_size=768, quantization_config=FP8_BLOCKS)
    (whole,) = derive_layers(config, H100)
    (cut,) = derive_layers(config, H100, Deployment(tensor_parallel_size=4))
    assert whole.notes == ()
    (note,) = cut.notes
    assert note.startswith("a rank's 192 of 768 rows cut through blocks of 128x128, ")
    assert note.endswith(" blocks of 64x64")


@given(
    st.sampled_from([32, 64, 96, 128, 256]),
    st.sampled_from([32, 64, 128, 256]),
    st.integers(1, 64).map(lambda n: 16 * n),
    st.integers(1, 32).map(lambda n: 64 * n),
    st.sampled_from([1, 2, 4, 8]),
)
def test_refined_block_divides_the_shard_and_the_blocks(
    rows: int, columns: int, size: int, hidden_dim: int, tp_size: int
) -> None:
    layer = shard(size * tp_size, hidden_dim, tp_size)
    refined = fp8_block_for_shard((rows, columns), layer)
    if refined != (rows, columns):
        assert refined[0] == refined[1] >= 32
        for length in (rows, columns, size, hidden_dim):
            assert length % refined[0] == 0


@pytest.mark.parametrize(
    ("size", "hidden_dim", "group_size", "pads_tiles", "takes"),
    [
        (768, 2048, 128, True, True),
        (96, 2048, 32, True, True),
        (96, 2048, 32, False, False),
        (96, 2048, 128, True, False),
        (96, 2048, -1, True, True),
        (768, 2048, 256, True, False),
        (768, 2000, 128, True, False),
    ],
)
def test_marlin_takes_shapes_of_its_tiles(
    size: int, hidden_dim: int, group_size: int, pads_tiles: bool, takes: bool
) -> None:
    layer = shard(size, hidden_dim)
    assert marlin_takes_shape(layer, group_size, CUDA, pads_tiles=pads_tiles) is takes
    assert not marlin_takes_shape(layer, group_size, {"device": "rocm"}, pads_tiles=pads_tiles)
