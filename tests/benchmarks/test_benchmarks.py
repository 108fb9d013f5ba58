"""What benchmarks compute without a GPU: costs, routings, candidates, reports."""

import csv
import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from moe_kernels.benchmark.layers import draw_layer, draw_workload, first_tokens  # noqa: E402
from moe_kernels.benchmark.peers import grouped_mm  # noqa: E402
from moe_kernels.benchmark.report import (  # noqa: E402
    Measurement,
    geometric_mean,
    markdown,
    speedups,
    write,
)
from moe_kernels.benchmark.shapes import (  # noqa: E402
    ROUTINGS,
    SCHEMES,
    SHAPES,
    Shape,
    cost,
    draw_routing,
)
from moe_kernels.tuning import MAX_UNSORTED_PAIRS  # noqa: E402

from benchmarks.tune import Point, candidates  # noqa: E402


@given(
    num_tokens=st.integers(1, 40),
    routing=st.sampled_from(ROUTINGS),
    topk=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None)
def test_routings_choose_different_experts(num_tokens, routing, topk, seed):
    shape = Shape(8, topk, 16, 16)
    generator = torch.Generator().manual_seed(seed)
    weights, ids = draw_routing(shape, num_tokens, routing, generator)
    assert all(len(set(row)) == topk for row in ids.tolist())
    assert 0 <= int(ids.min()) <= int(ids.max()) < 8
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(num_tokens))


def test_skewed_routings_have_favourites():
    shape = SHAPES["qwen3-30b-a3b"]
    largest = {}
    for routing in ROUTINGS:
        _, ids = draw_routing(shape, 1000, routing, torch.Generator().manual_seed(0))
        largest[routing] = int(ids.flatten().bincount(minlength=shape.experts).max())
    assert largest["skewed"] > 3 * largest["uniform"]


def test_unknown_routing_is_named():
    with pytest.raises(ValueError, match="'zipf'; expected one of uniform, skewed"):
        draw_routing(SHAPES["mixtral-8x7b"], 1, "zipf", torch.Generator())


def test_cost_counts_active_local_experts_once():
    shape = Shape(8, 2, 100, 10, ep_size=2)  # experts 0 to 3 are here
    ids = torch.tensor([[0, 5], [0, 3], [6, 7]])
    result = cost(shape, SCHEMES["bf16"], ids)
    weights = 3 * 100 * 10
    assert result.bytes == 2 * weights * 2 + 2 * 3 * 100 * 2
    assert result.flops == 2 * 3 * weights
    assert result.floor_us(gbps=1.0, tflops=1e9) == pytest.approx(result.bytes * 1e-3)
    assert result.floor_us(gbps=1e9, tflops=1.0) == pytest.approx(result.flops * 1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_workloads_share_weights_and_differ_in_tokens(scheme):
    shape = Shape(8, 2, 128, 128)
    layer = draw_layer(shape, SCHEMES[scheme], 0, "cpu")
    one, other = draw_workload(layer, shape, SCHEMES[scheme], 5, "skewed", 2, 1).inputs
    assert one.w13 is other.w13 is layer.w13
    assert not torch.equal(one.hidden_states, other.hidden_states)
    assert first_tokens(one, 3).topk_ids.shape == (3, 2)


def test_grouped_mm_peer_computes_the_layer():
    shape = Shape(4, 2, 64, 32)
    scheme = SCHEMES["bf16"]
    layer = draw_layer(shape, scheme, 0, "cpu")
    run = grouped_mm(layer)
    if run is None:
        pytest.skip("torch has no grouped_mm")
    tokens = draw_workload(layer, shape, scheme, 9, "uniform", 1, 0).inputs[0]
    try:
        output = run(tokens)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"grouped_mm does not run on this CPU: {error}")
    expected = tokens.reference(dtype=torch.float32)
    assert float((output.float() - expected).norm() / expected.norm()) < 1e-2


def test_grouped_mm_peer_leaves_quantized_layers_alone():
    layer = draw_layer(Shape(4, 2, 128, 128), SCHEMES["fp8_block"], 0, "cpu")
    assert grouped_mm(layer) is None


@pytest.mark.parametrize("num_tokens", [1, 16, 64, 1024, 16384])
@pytest.mark.parametrize("shape", SHAPES)
def test_candidates_can_be_run(shape, num_tokens):
    point = Point("bf16", shape, num_tokens)
    found = candidates(point)
    assert found
    assert len(set(found)) == len(found)
    assert all(sort or point.num_pairs <= MAX_UNSORTED_PAIRS for sort, _ in found)


def measurement(kernel, us, num_tokens=1):
    return Measurement(
        "bf16", "s", "uniform", num_tokens, kernel, us, 2 * us, 5.0, "bytes", 1.0, 2.0, 1e-3
    )


def test_reports(tmp_path):
    measured = [
        measurement("ours", 10.0),
        measurement("peer", 20.0),
        measurement("ours", 10.0, 4),
        measurement("peer", 5.0, 4),
        measurement("peer", 5.0, 16),  # ours is missing here
    ]
    assert [row["peer"] for row in speedups(measured, "ours").values()] == [2.0, 0.5]
    write(measured, "ours", {"device": "none"}, tmp_path)
    with (tmp_path / "layers.csv").open(newline="") as file:
        assert [float(row["us"]) for row in csv.DictReader(file)] == [10.0, 20.0, 10.0, 5.0, 5.0]
    stored = json.loads((tmp_path / "layers.json").read_text())
    assert stored["run"] == {"device": "none"}
    text = markdown(measured, "ours", {"device": "none"})
    assert "| bf16 | peer | 2 | 1.00 | 0.50 |" in text
    assert "| bf16 | floor (time over it) | 2 | 2.00 | 2.00 |" in text


def test_geometric_mean_of_nothing():
    assert geometric_mean([]) != geometric_mean([])
