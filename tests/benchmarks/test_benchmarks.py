"""What benchmarks compute without a GPU: costs, routings, plans, reports, and a whole small run."""

import csv
import json
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from moe_kernels.benchmark import compiling, runner  # noqa: E402
from moe_kernels.benchmark.layers import (  # noqa: E402
    draw_layer,
    draw_routing,
    draw_workload,
    first_tokens,
)
from moe_kernels.benchmark.peers import (  # noqa: E402
    OURS,
    Peer,
    PeerUnavailableError,
    bind_ours,
    grouped_mm,
    load_peers,
)
from moe_kernels.benchmark.plan import Plan  # noqa: E402
from moe_kernels.benchmark.plots import write_plots  # noqa: E402
from moe_kernels.benchmark.report import (  # noqa: E402
    BEST,
    PICK,
    Failure,
    Measurement,
    Pick,
    Point,
    Results,
    geometric_mean,
    markdown,
    speedups,
)
from moe_kernels.benchmark.shapes import (  # noqa: E402
    ROUTINGS,
    SCHEMES,
    SHAPES,
    TOKENS,
    Shape,
    cost,
)
from moe_kernels.reference import relative_error  # noqa: E402


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


@pytest.mark.parametrize("seed", range(4))
def test_what_is_compared_with_the_reference_has_a_local_expert(seed):
    shape = Shape(64, 2, 128, 128, ep_size=8)
    layer = draw_layer(shape, SCHEMES["bf16"], 0, "cpu")
    workload = draw_workload(layer, shape, SCHEMES["bf16"], 1, "uniform", 32, seed)
    assert workload.inputs[0].reference(dtype=torch.float32).any()


@pytest.mark.parametrize(
    "shape",
    [Shape(4, 2, 64, 32), Shape(4, 2, 64, 32, activation="swigluoai", bias=True)],
    ids=["silu", "swigluoai"],
)
def test_grouped_mm_peer_computes_the_layer(shape):
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
    assert relative_error(output, tokens.reference(dtype=torch.float32)) < 1e-2


def test_grouped_mm_peer_leaves_quantized_layers_alone():
    layer = draw_layer(Shape(4, 2, 128, 128), SCHEMES["fp8_block"], 0, "cpu")
    assert grouped_mm(layer) is None


# Triton's interpreter rounds to FP8 wrongly.
@pytest.mark.parametrize("name", [name for name in SCHEMES if not name.startswith("fp8")])
def test_our_kernel_computes_every_scheme_from_converted_weights(name):
    scheme = replace(SCHEMES[name], in_dtype="fp16")  # the interpreter has no bf16 products
    bias = scheme.kernel == "OAITritonExperts"
    shape = Shape(4, 2, 256, 128, activation="swigluoai" if bias else "silu", bias=bias)
    layer = draw_layer(shape, scheme, 0, "cpu")
    tokens = draw_workload(layer, shape, scheme, 3, "uniform", 1, 0).inputs[0]
    output = bind_ours(layer, scheme.kernel)(tokens)
    assert relative_error(output, tokens.reference(dtype=torch.float32)) <= tokens.error_bound()


@pytest.mark.parametrize("name", SCHEMES)
def test_weight_bytes_are_those_of_the_tensors(name):
    scheme, shape = SCHEMES[name], Shape(2, 1, 512, 256)
    layer = draw_layer(shape, scheme, 0, "cpu")
    quant = layer.quant_config
    tensors = [layer.w13, layer.w2]
    if scheme.weight_bytes % 0.5:  # others have scales of whole rows, which count for nothing
        tensors += [quant.w13_scale, quant.w2_scale]
    weights = shape.experts * 3 * shape.hidden * shape.intermediate
    assert sum(t.nbytes for t in tensors) == pytest.approx(weights * scheme.weight_bytes)


def plan(**changes):
    return Plan(
        **{
            "shapes": {"tiny": Shape(4, 2, 64, 32)},
            "schemes": {"fp16": SCHEMES["fp16"]},
            "tokens": (1, 2, 3, 4),
            "routings": ROUTINGS,
            "seed": 0,
        }
        | changes
    )


@pytest.mark.parametrize("seconds", [None, 5.0])
@pytest.mark.parametrize("tokens", [TOKENS, (1,), (7, 3)])
@pytest.mark.parametrize("routings", [ROUTINGS, ("skewed",)])
def test_plans_have_every_point_once(seconds, tokens, routings):
    asked = plan(shapes=SHAPES, schemes=SCHEMES, tokens=tokens, routings=routings, seconds=seconds)
    points = [point for batch in asked.batches() for point in batch]
    assert len(set(points)) == len(points) == len(asked.layers()) * len(tokens) * len(routings)
    assert ("int4_w4a16", "gpt-oss-120b") not in asked.layers()  # 128 does not divide 2880


def test_plans_with_little_time_cover_all_layers_first():
    asked = plan(shapes=SHAPES, schemes=SCHEMES, tokens=TOKENS, seconds=1.0)
    first = list(asked.batches())[: len(asked.layers())]
    assert {batch[0][:2] for batch in first} == set(asked.layers())
    assert {(p.routing, p.num_tokens) for batch in first for p in batch} == {
        ("uniform", 1), ("uniform", 64), ("uniform", 4096),
    }  # fmt: skip


def measurement(kernel, us, num_tokens=1, call_bytes=None):
    figures = (us, 2 * us, 5.0, "bytes", 1.0, 2.0, 1e-3, call_bytes)
    return Measurement("bf16", "s", "uniform", num_tokens, kernel, *figures)


MEASURED = [
    measurement(OURS, 10.0),
    measurement("slow", 20.0),
    measurement("fast", 8.0),
    measurement(OURS, 10.0, 4),
    measurement("slow", 40.0, 4),
    measurement("slow", 5.0, 16),  # ours is missing here
]


def test_speedups_are_over_each_peer_and_the_best():
    assert speedups(MEASURED, OURS) == {
        Point("bf16", "s", "uniform", 1): {"slow": 2.0, "fast": 0.8, BEST: 0.8},
        Point("bf16", "s", "uniform", 4): {"slow": 4.0, BEST: 4.0},
    }


def test_the_kernel_that_vllm_picks_is_compared_where_it_is_a_peer():
    results = Results(OURS, {}, list(MEASURED))
    results.peer_kernels = {"slow": ["SlowExperts", "OtherExperts"], "fast": ["FastExperts"]}
    results.picks = [Pick("bf16", "s", "SLOW", "SlowExperts")]
    point, other = (Point("bf16", "s", "uniform", tokens) for tokens in (1, 4))
    assert results.ratios() == {
        point: {"slow": 2.0, "fast": 0.8, BEST: 0.8, PICK: 2.0},
        other: {"slow": 4.0, BEST: 4.0, PICK: 4.0},
    }
    lines = list(markdown(results))
    assert "| bf16 | vLLM's pick | 2 | 2.83 | 2.00 | 4.00 |" in lines
    assert next(line for line in lines if "| s |" in line).endswith("| 0.80 | 2.00 | SLOW |")
    # A pick that no peer is has a name, but no ratio.
    results.picks = [Pick("bf16", "s", "THIRD", "ThirdExperts")]
    assert all(PICK not in row for row in results.ratios().values())
    assert next(line for line in markdown(results) if "| s |" in line).endswith("0.80 | THIRD |")


def test_reports(tmp_path):
    failure = Failure("bf16", "s", "", 0, "fast", "broke")
    results = Results(OURS, {"device": "none"}, list(MEASURED), [failure])
    results.write(tmp_path)
    with (tmp_path / "layers.csv").open(newline="") as file:
        assert [float(row["us"]) for row in csv.DictReader(file)] == [m.us for m in MEASURED]
    assert Results.read(tmp_path) == results
    assert json.loads((tmp_path / "layers.json").read_text())["run"] == {"device": "none"}
    lines = list(markdown(results))
    assert "| bf16 | slow | 2 | 2.83 | 2.00 | 4.00 |" in lines
    assert "| bf16 | best peer | 2 | 1.79 | 0.80 | 4.00 |" in lines
    assert "| bf16 | floor (our time over it) | 2 | 2.00 | 2.00 | 2.00 |" in lines
    assert "- bf16 s uniform M=1: 0.80" in lines
    assert not any("M=4:" in line for line in lines)
    assert "- fast, bf16 s: broke" in lines


def test_memory_is_reported_where_there_are_most_tokens():
    found = [
        measurement(OURS, 10.0, 4, 1 << 30),
        measurement(OURS, 10.0, 16, 3 << 20),
        measurement("slow", 40.0, 16, 5 << 20),
        measurement("old", 40.0, 16),
    ]
    lines = list(markdown(Results(OURS, {}, found)))
    place = lines.index("| scheme | shape | routing | M | moe_rules | old | slow |")
    assert lines[place + 2] == "| bf16 | s | uniform | 16 | 3 |  | 5 |"
    assert not any("MiB" in line for line in markdown(Results(OURS, {}, MEASURED)))


def test_failures_settle_points():
    results = Results(OURS, {}, [], [Failure("bf16", "s", "", 0, "a", "broke")])
    results.failures.append(Failure("bf16", "s", "uniform", 4, "b", "wrong"))
    point = Point("bf16", "s", "uniform", 4)
    assert results.settled(point, "a")
    assert results.settled(point, "b")
    assert not results.settled(point._replace(num_tokens=1), "b")
    assert not results.settled(point._replace(shape="t"), "a")


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    (path,) = write_plots(MEASURED, OURS, tmp_path)
    assert path.name == "s.png"
    assert path.stat().st_size > 5000


def test_geometric_mean_of_nothing():
    assert geometric_mean([]) != geometric_mean([])


def test_modules_without_peers_are_named():
    assert "grouped_mm" in load_peers()
    with pytest.raises(PeerUnavailableError, match=r"'json'.*PEERS"):
        load_peers(["json"])
    with pytest.raises(PeerUnavailableError, match="'no_such_module'"):
        load_peers(["no_such_module"])


@pytest.mark.parametrize("peers", [["mine"], {"mine": bind_ours}])
def test_peers_that_are_none_are_named(peers, monkeypatch):
    monkeypatch.setitem(sys.modules, "wrong_peers", SimpleNamespace(PEERS=peers))
    with pytest.raises(PeerUnavailableError, match=r"'wrong_peers' must map names to .*Peer"):
        load_peers(["wrong_peers"])


@pytest.fixture
def on_cpu(monkeypatch):
    """The runner with draws on the CPU and invented times."""
    monkeypatch.setattr(runner, "draw_layer", partial(draw_layer, device="cpu"))
    monkeypatch.setattr(runner, "graph_us", lambda calls: float(len(calls)))
    monkeypatch.setattr(runner, "eager_us", lambda call, repeats: 1.0)
    monkeypatch.setattr(runner, "call_bytes", lambda call: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def benchmark(results, peers, **changes):
    return runner.Benchmark(plan(**changes), peers, results, lambda line: None)


FACTS = {"copy_gbps": 1.0, "read_gbps": 2.0, "bf16_tflops": 3.0}


def test_runs_check_every_kernel_and_note_what_fails(on_cpu, monkeypatch, tmp_path):
    def broken(layer):
        raise ZeroDivisionError("a\nb")

    def missing(layer):
        raise PeerUnavailableError("install it")

    adapters = {
        "reference": lambda layer: lambda tokens: tokens.reference(),
        "wrong": lambda layer: lambda tokens: tokens.reference() * 1.1,
        "raises": lambda layer: broken,
        "missing": missing,
        "declines": lambda layer: None,
    }
    peers = {name: Peer(adapter, lambda: "a test") for name, adapter in adapters.items()}
    results = Results(OURS, dict(FACTS))
    steps = []
    benchmark(results, peers, tokens=(1, 3)).measure(tmp_path, lambda: steps.append(1))
    assert len(steps) == 4
    assert {m.kernel for m in results.measurements} == {OURS, "reference"}
    assert {m.bound for m in results.measurements} == {"bytes"}
    errors = {f.kernel: f.error for f in results.failures}
    assert errors["wrong"].startswith("ValueError: wrong: error 1.0e-01")
    assert errors["raises"] == "ZeroDivisionError: a"
    assert errors["missing"] == "install it"
    assert set(errors) == {"wrong", "raises", "missing"}
    assert results.declined == [["fp16", "tiny", "declines"]]
    assert Results.read(tmp_path) == results
    before = len(results.measurements), len(results.failures)
    monkeypatch.setattr(runner, "draw_layer", None)  # nothing is left to draw for
    benchmark(results, peers, tokens=(1, 3)).measure(tmp_path, lambda: None)
    assert (len(results.measurements), len(results.failures)) == before


def test_a_lost_device_ends_the_run_with_what_was_found(on_cpu, monkeypatch, tmp_path):
    def lost():
        raise RuntimeError("illegal address")

    def breaks(tokens):
        monkeypatch.setattr(torch.cuda, "synchronize", lost)
        raise RuntimeError("unspecified launch failure")

    results = Results(OURS, dict(FACTS))
    peers = {"breaks": Peer(lambda layer: breaks, lambda: "a test")}
    with pytest.raises(runner.DeviceLostError, match="breaks on fp16 tiny uniform M=1"):
        benchmark(results, peers).measure(tmp_path, lambda: None)
    assert [m.kernel for m in Results.read(tmp_path).measurements] == [OURS]


def test_no_point_starts_when_time_is_up(on_cpu, tmp_path):
    results = Results(OURS, dict(FACTS))
    benchmark(results, {}, seconds=-1.0).measure(tmp_path, lambda: None)
    assert results.measurements == []


def test_everything_of_a_layer_is_compiled_and_failures_are_told(monkeypatch):
    monkeypatch.setattr(compiling, "draw_layer", partial(draw_layer, device="cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(compiling.time, "sleep", lambda seconds: None)
    calls = []

    def scarce(layer):
        def run(tokens):
            calls.append(len(tokens.hidden_states))
            if len(calls) < 3:
                raise torch.OutOfMemoryError("others hold it")
            if len(tokens.hidden_states) == 2:
                raise ZeroDivisionError("no")

        return run

    peers = {"scarce": Peer(scarce, lambda: "a test")}
    monkeypatch.setattr(compiling, "load_peers", lambda modules: peers)
    asked = plan(tokens=(1, 2, 3))
    assert compiling.compile_layer(asked, "fp16", "tiny", "scarce", []) == [
        "M=2: ZeroDivisionError: no"
    ]
    assert calls == [1, 1, 1, 2, 3]
    assert compiling.compile_layer(asked, "fp16", "tiny", "", []) == []


def test_peers_may_join_a_run_that_is_gone_on_with(tmp_path, monkeypatch):
    facts = {"device": "none", "peers": {"old": "Old 1"}}
    Results(OURS, facts, list(MEASURED)).write(tmp_path)
    monkeypatch.setattr(runner, "device_facts", lambda: {"device": ""})  # its names count
    resumed = runner._resumed(tmp_path, {"device": "none", "peers": {"new": "New 2"}})
    assert resumed.run["peers"] == {"old": "Old 1", "new": "New 2"}
    assert resumed.measurements == MEASURED
    with pytest.raises(runner.BenchmarkError, match="of another device"):
        runner._resumed(tmp_path, {"device": "other", "peers": {}})
