"""What a tuning run writes down, and the session that fills it within its time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from moe_kernels.benchmark.shapes import SCHEMES, TOKENS, Shape  # noqa: E402
from moe_kernels.benchmark.tune.layers import (  # noqa: E402
    TuneLayer,
    named_layers,
)
from moe_kernels.benchmark.tune.record import (  # noqa: E402
    Measured,
    Record,
    RecordError,
    Tiling,
)
from moe_kernels.benchmark.tune.session import Lines, command_of, in_words, tune  # noqa: E402
from moe_kernels.tiling import tuned_configs  # noqa: E402
from moe_kernels.tiling.tuned_configs import LayerKey, TunedConfigError, file_name  # noqa: E402
from tilings import FACTS, START, TORCH, TRITON  # noqa: E402


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
