"""Tuning without a GPU: the search, the record, the session, and calls that are only compiled."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from moe_kernels import tuned_configs  # noqa: E402
from moe_kernels.benchmark.peers import converted  # noqa: E402
from moe_kernels.benchmark.shapes import SCHEMES, SHAPES, TOKENS, Shape  # noqa: E402
from moe_kernels.benchmark.tune import gpu  # noqa: E402
from moe_kernels.benchmark.tune import layers as tune_layers  # noqa: E402
from moe_kernels.benchmark.tune.compiling import Job, _hollow, compile_jobs  # noqa: E402
from moe_kernels.benchmark.tune.cpu import CpuMeasurer  # noqa: E402
from moe_kernels.benchmark.tune.gpu import GpuMeasurer, _tiles  # noqa: E402
from moe_kernels.benchmark.tune.layers import (  # noqa: E402
    Contender,
    TuneLayer,
    draw,
    load,
    named_layers,
)
from moe_kernels.benchmark.tune.measurer import DeviceError  # noqa: E402
from moe_kernels.benchmark.tune.record import (  # noqa: E402
    Measured,
    Record,
    RecordError,
    Tiling,
)
from moe_kernels.benchmark.tune.search import Search, tiles_for  # noqa: E402
from moe_kernels.benchmark.tune.session import Lines, command_of, in_words, tune  # noqa: E402
from moe_kernels.tuned_configs import LayerKey, TunedConfigError, file_name  # noqa: E402
from moe_kernels.tuning import LayerConfig, TileConfig  # noqa: E402

START = LayerConfig(TileConfig(16, 64, 64, 1, 4, 4), TileConfig(16, 64, 64, 1, 4, 4))
TORCH, TRITON = tuned_configs.versions()
FACTS = {"device": "Test GPU", "date": "2026-11-27", "torch": TORCH, "triton": TRITON}


def separable(config: LayerConfig) -> float:
    """A time that is least for one tile of each GEMM, whatever the other's is."""
    up, down = config
    time = abs(math.log2(up.block_n / 128)) + abs(math.log2(down.block_n / 32))
    return 10 + time + abs(math.log2(up.block_m / 32)) + (up.group_m - 1) / 8


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
)
def test_there_are_few_tilings_and_they_fit(load_, activation_bytes, rows, columns):
    tiles = tiles_for(load_, activation_bytes, rows, columns)
    assert 1 <= len(tiles) <= 32
    assert len(set(tiles)) == len(tiles)
    for tile in tiles:
        stage = (tile.block_m + tile.block_n) * tile.block_k * activation_bytes
        assert tile.block_k <= columns
        assert stage * tile.num_stages <= 232448
        assert tile.num_stages >= 2


# The record --------------------------------------------------------------------------------------


def measured(tokens: int, us: float = 10.0, backend: str = "TRITON", **key: int) -> Measured:
    layer = LayerKey("bf16", 8, 1024, 512)._replace(**key)
    tiling = Tiling(layer, 2.0 * tokens, START, us * 1.5, 20)
    return Measured("a layer", tokens, backend, "TritonExperts", us, tiling)


def test_a_record_is_gone_on_with(tmp_path):
    path = tmp_path / "out" / "measured.jsonl"
    first = Record.open(path, FACTS, resume=False)
    first.add([measured(1), replace(measured(4), tiling=None)])
    again = Record.open(path, FACTS | {"date": "2026-11-28"}, resume=True)
    assert again.measured == first.measured
    again.add([measured(16)])
    found = Record.open(path, FACTS, resume=True).of("a layer")
    assert {tokens: list(by_backend) for tokens, by_backend in found.items()} == {
        1: ["TRITON"],
        4: ["TRITON"],
        16: ["TRITON"],
    }


def test_half_a_line_of_a_run_that_was_killed_is_dropped(tmp_path):
    path = tmp_path / "measured.jsonl"
    Record.open(path, FACTS, resume=False).add([measured(1), measured(4)])
    path.write_text(path.read_text()[:-20])
    record = Record.open(path, FACTS, resume=True)
    assert record.measured == [measured(1)]
    record.add([measured(16)])
    assert Record.open(path, FACTS, resume=True).measured == [measured(1), measured(16)]


def test_a_record_is_not_overwritten(tmp_path):
    path = tmp_path / "measured.jsonl"
    Record.open(path, FACTS, resume=False)
    with pytest.raises(RecordError, match=r"is there already: --resume goes on"):
        Record.open(path, FACTS, resume=False)


def test_a_record_of_other_versions_is_refused(tmp_path):
    path = tmp_path / "measured.jsonl"
    Record.open(path, FACTS | {"triton": "1.0"}, resume=False)
    with pytest.raises(RecordError, match=rf"triton 1\.0 then, {TRITON} now"):
        Record.open(path, FACTS, resume=True)


@pytest.mark.parametrize("text", ["", "[]\n", "{}\n", json.dumps(FACTS) + "\n{}\n{}\n"])
def test_another_file_is_no_record(tmp_path, text):
    path = tmp_path / "measured.jsonl"
    path.write_text(text)
    with pytest.raises(RecordError, match="is no record of measurements"):
        Record.open(path, FACTS, resume=True)


def test_tables_are_written_from_a_record(tmp_path):
    record = Record(tmp_path / "measured.jsonl", FACTS)
    record.add([measured(4, 8.0), measured(1, 6.0), measured(4, 7.0), measured(1, 5.0, experts=16)])
    (path,) = record.write_tables(tmp_path / "configs", "tune anew")
    assert path.name == file_name("Test GPU", "bf16")
    file = tuned_configs.read(path)
    assert (file.torch, file.triton, file.command) == (TORCH, TRITON, "tune anew")
    assert [(c.pairs, c.us) for c in file.layers[LayerKey("bf16", 8, 1024, 512)]] == [
        (2.0, 6.0),
        (8.0, 7.0),
    ]
    assert len(file.layers) == 2


@pytest.mark.parametrize(("version", "kept"), [(TRITON, 2), ("1.0", 1)])
def test_layers_of_earlier_runs_stay_unless_they_are_stale(tmp_path, version, kept):
    folder = tmp_path / "configs"
    before = Record(tmp_path / "before.jsonl", FACTS | {"triton": version})
    before.add([measured(1, experts=16)])
    before.write_tables(folder, "")
    now = Record(tmp_path / "now.jsonl", FACTS)
    now.add([measured(1)])
    (path,) = now.write_tables(folder, "")
    assert len(tuned_configs.read(path).layers) == kept


def test_a_table_that_is_wrong_is_not_overwritten(tmp_path):
    record = Record(tmp_path / "measured.jsonl", FACTS)
    record.add([measured(1)])
    path = tmp_path / file_name("Test GPU", "bf16")
    path.write_text("{}")
    with pytest.raises(TunedConfigError, match="expected the keys"):
        record.write_tables(tmp_path, "")
    assert path.read_text() == "{}"


# The session -------------------------------------------------------------------------------------


class Clock:
    """A clock that only goes on when something takes time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeMeasurer:
    """Takes as long as it is told, and notes what it was asked."""

    facts = FACTS

    def __init__(self, clock: Clock, preparing=0.0, loading=1.0, measuring=1.0) -> None:
        self.clock = clock
        self.preparing, self.loading, self.measuring = preparing, loading, measuring
        self.prepared: list[tuple[TuneLayer, int]] = []
        self.asked: list[tuple[str, int]] = []
        self.shares: list[float] = []

    def prepare(self, todo, seconds, progress) -> None:
        self.prepared += todo
        self.clock.now += self.preparing

    def load(self, layer, progress) -> None:
        self.layer = str(layer)
        self.clock.now += self.loading

    def measure(self, num_tokens, seconds, progress) -> list[Measured]:
        self.asked.append((self.layer, num_tokens))
        self.shares.append(seconds)
        self.clock.now += self.measuring
        return [replace(measured(num_tokens), layer=self.layer)]


def layers(count: int) -> list[TuneLayer]:
    shapes = [Shape(8, 2, 256, 128 * (i + 1)) for i in range(count)]
    return named_layers(shapes, [SCHEMES["bf16"]])


def run(tmp_path: Path, clock: Clock, measurer: FakeMeasurer, count=2, tokens=(4, 1), seconds=60.0):
    record = Record.open(tmp_path / "measured.jsonl", FACTS, resume=True)
    lacking = tune(layers(count), tokens, measurer, record, seconds, Lines(), clock)
    return lacking, record


def test_every_layer_is_measured_with_every_number_of_tokens(tmp_path):
    measurer = FakeMeasurer(clock := Clock())
    lacking, record = run(tmp_path, clock, measurer)
    one, other = map(str, layers(2))
    assert lacking == 0
    assert measurer.asked == [(one, 1), (one, 4), (other, 1), (other, 4)]
    assert len(record.measured) == len(measurer.prepared) == 4


def test_what_is_measured_is_not_measured_again(tmp_path):
    clock = Clock()
    run(tmp_path, clock, FakeMeasurer(clock), count=1, tokens=(1, 4))
    measurer = FakeMeasurer(clock)
    run(tmp_path, clock, measurer, count=1, tokens=(1, 4, 16))
    assert [tokens for _, tokens in measurer.asked] == [16]
    again = FakeMeasurer(clock, preparing=5.0)
    run(tmp_path, clock, again, count=1, tokens=(1, 4, 16))
    assert (again.asked, again.prepared) == ([], [])


def test_time_is_shared_and_nothing_begins_after_it(tmp_path, capsys):
    measurer = FakeMeasurer(clock := Clock(), preparing=4.0, loading=1.0, measuring=3.0)
    lacking, record = run(tmp_path, clock, measurer, count=3, tokens=TOKENS, seconds=25.0)
    assert {name for name, _ in measurer.asked} == set(map(str, layers(3))), "each has its share"
    assert clock.now <= 25.0 + 3.0
    assert lacking == 3 * len(TOKENS) - len(record.measured) > 0
    assert "no time left for E8 k2 H256" in capsys.readouterr().out


def test_what_one_layer_does_not_need_is_for_the_next(tmp_path):
    measurer = FakeMeasurer(clock := Clock(), loading=0.0, measuring=0.5)
    run(tmp_path, clock, measurer, count=2, tokens=(1, 4), seconds=40.0)
    assert measurer.shares == [10.0, 19.5, 19.5, 38.5]


def test_a_layer_that_was_drawn_is_measured(tmp_path):
    measurer = FakeMeasurer(clock := Clock(), loading=50.0)
    run(tmp_path, clock, measurer, count=2, tokens=(1, 4), seconds=10.0)
    assert measurer.asked == [(str(layers(1)[0]), 1)]


def test_a_measurement_in_words():
    assert in_words(measured(4)) == (
        "a layer, 4 tokens: TritonExperts 10.0 us 1.50x the rules of thumb, "
        "up 16 64 64 1 4 4, down 16 64 64 1 4 4, of 20"
    )


@pytest.mark.parametrize(
    "words",
    [
        "--shape a b --out x --seconds 5",
        "--shape a b --seconds 5 --resume --out=x",
        "--resume --shape a b --seconds 5",
    ],
)
def test_the_command_that_renews_a_table_says_nothing_of_one_run(words):
    assert command_of("moe-rules tune", words.split()) == (
        "moe-rules tune --shape a b --seconds 5"
    )  # fmt: skip


# Devices -----------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_search_without_a_gpu_is_refused():
    with pytest.raises(DeviceError, match="torch sees none here"):
        GpuMeasurer("uniform", 0)


def test_kernels_of_the_cpu_are_timed(tmp_path):
    shape = Shape(4, 2, 128, 128)
    contenders = tuple(
        replace(named_layers([shape], [SCHEMES["fp8_block"]])[0].contenders[0], **names)
        for names in (
            {"backend": "CPU_W8A8", "kernel": "CPUExpertsFp8W8A8"},
            {"backend": "CPU", "kernel": "CPUExpertsFp8"},
            {"backend": "TRITON", "kernel": "TritonWNA16Experts"},
        )
    )
    measurer = CpuMeasurer("skewed", 1)
    notes = Lines()
    layer = TuneLayer(shape.moe_config(), contenders)
    measurer.load(layer, notes)
    found = measurer.measure(3, 0.1, notes)
    assert [(m.layer, m.num_tokens, m.backend, m.kernel, m.tiling) for m in found] == [
        (str(layer), 3, c.backend, c.kernel, None) for c in contenders[:2]
    ]
    assert all(m.us > 0 for m in found)
    assert set(measurer.facts) >= {"device", "date", "torch", "threads"}


def test_a_kernel_with_wrong_results_is_not_timed(monkeypatch):
    from moe_kernels.modular_kernel import FusedMoEKernel

    right = FusedMoEKernel.apply
    monkeypatch.setattr(
        FusedMoEKernel, "apply", lambda *args, **others: 1.5 * right(*args, **others)
    )
    with pytest.raises(ValueError, match=r"relative error is 5\.0e-01, above the bound"):
        load(Shape(4, 2, 64, 64).moe_config(), Contender("CPU", "CPUUnquantizedExperts"), "cpu", 0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ep_size", [1, 4])
def test_hollow_layers_are_like_those_that_are_measured(scheme, ep_size):
    (layer,) = named_layers([Shape(16, 2, 256, 128, ep_size)], [SCHEMES[scheme]])
    contender, config = layer.contenders[0], layer.config
    hollow, kernel = _hollow(contender, config, "cpu")
    real = converted(draw(config, contender, "cpu", 0), contender.kernel)
    assert type(kernel.experts).__name__ == contender.kernel
    pairs = [(hollow.w13, real.w13), (hollow.w2, real.w2)]
    quant = vars(real.quant_config)
    pairs += [(getattr(hollow.quant_config, name), value) for name, value in quant.items()]
    for one, other in pairs:
        if isinstance(other, torch.Tensor):
            assert (one.shape, one.stride(), one.dtype) == (
                other.shape,
                other.stride(),
                other.dtype,
            )
        else:
            assert one == other
    assert (hollow.expert_map is None) == (real.expert_map is None)
    assert hollow.w13[-1].shape == real.w13[-1].shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiles nothing without a GPU")
def test_every_job_ends_in_another_process_or_not_at_all():
    (layer,) = named_layers([Shape(4, 2, 128, 64)], [SCHEMES["fp8_block"]])
    contender, call = layer.contenders[0], (layer.config, 4)
    jobs = {Job.of(contender, tile, call): [call] for tile in (None, START.up)}
    ended = {}
    compile_jobs(jobs, 1, 600.0, lambda job, failures: ended.update({job: failures}))
    assert list(ended) == list(jobs)
    for failures in ended.values():
        assert list(failures) == [layer.config]
        assert "cuda" in failures[layer.config].lower()
    compile_jobs(jobs, 1, 0.0, lambda job, failures: pytest.fail("no time was left"))


def test_calls_that_share_kernels_are_one_job():
    (layer,) = named_layers([SHAPES["qwen3-30b-a3b"]], [SCHEMES["bf16"]])
    contender, tile = layer.contenders[0], START.up
    jobs = [Job.of(contender, tile, (layer.config, tokens)) for tokens in (1, 2, 4, 16, 64, 4096)]
    assert len(set(jobs)) == 3
    other = layer.config, 4
    assert Job.of(contender, None, other) != Job.of(contender, None, (layer.config, 8))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_named_layers_have_tilings_to_try(scheme):
    for layer in named_layers(SHAPES.values(), [SCHEMES[scheme]]):
        for tokens in TOKENS:
            tiles = _tiles(layer, layer.contenders[0], tokens)
            assert tiles
            if scheme == "fp8_block":
                assert all(tile.block_k <= 128 for tile in tiles)


# Triton's interpreter multiplies no bf16.
@pytest.fixture
def gpu_measurer(monkeypatch):
    """A measurer whose GPU is Triton's interpreter, and whose times are those of ``separable``."""
    if torch.cuda.is_available():
        pytest.skip("this GPU leaves Triton no interpreter")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu, "load", lambda c, contender, _, seed: load(c, contender, "cpu", seed))

    monkeypatch.setattr(gpu, "rotations", lambda tokens, size: 1)
    monkeypatch.setattr(tune_layers, "CHECKED_TOKENS", 4)

    def graph_us(calls, replays):
        config = tuned_configs._trial.config
        return 100.0 if config is None else separable(config)

    def compile_jobs(jobs, workers, seconds, done):
        for job, calls in jobs.items():
            too_wide = job.tile is not None and job.tile.block_n == 256
            done(job, {config: "too wide" for config, _ in calls} if too_wide else {})

    monkeypatch.setattr(gpu, "graph_us", graph_us)
    monkeypatch.setattr(gpu, "compile_jobs", compile_jobs)
    return GpuMeasurer("uniform", 0)


def test_a_layer_is_searched(gpu_measurer, capsys):
    (layer,) = named_layers([Shape(4, 2, 128, 64)], [SCHEMES["fp16"]])
    progress = Lines()
    gpu_measurer.prepare([(layer, 20)], 1.0, progress)
    gpu_measurer.load(layer, progress)
    (found,) = gpu_measurer.measure(20, 1e6, progress)
    tiling = found.tiling
    assert tiling.key == LayerKey("bf16", 4, 128, 128)
    assert tiling.pairs == 40
    assert found.us == separable(tiling.config) < tiling.heuristic_us
    assert tiling.tried > 4
    contender = layer.contenders[0]
    tried = {t.block_n for t in _tiles(layer, contender, 20)}
    assert (256 in tried) == ("not compiled: TritonExperts" in capsys.readouterr().out)


def test_a_tiling_with_another_result_is_not_taken(gpu_measurer, monkeypatch, capsys):
    (layer,) = named_layers([Shape(4, 2, 128, 64)], [SCHEMES["fp16"]])
    progress = Lines()
    gpu_measurer.prepare([(layer, 20)], 1.0, progress)
    gpu_measurer.load(layer, progress)
    monkeypatch.setattr(gpu, "relative_error", lambda *_: 0.5)
    (found,) = gpu_measurer.measure(20, 1e6, progress)
    assert found.us == found.tiling.heuristic_us
    assert "gives another result (5.0e-01)" in capsys.readouterr().out


def test_what_was_not_compiled_is_not_tried(gpu_measurer):
    (layer,) = named_layers([Shape(4, 2, 128, 64)], [SCHEMES["fp16"]])
    gpu_measurer.load(layer, Lines())
    (found,) = gpu_measurer.measure(20, 1e6, Lines())
    assert found.tiling.tried == 1
    assert found.us == found.tiling.heuristic_us
