"""tune: measures what the rules let serve a layer, and writes an overlay that they obey."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from moe_kernels.benchmark.shapes import SCHEMES, SHAPES
from moe_kernels.benchmark.tune.cpu import CpuMeasurer
from moe_kernels.benchmark.tune.gpu import GpuMeasurer
from moe_kernels.benchmark.tune.record import Measured

from moe_rules.cli import build_parser
from moe_rules.cli.measured_rules import measured_order, moves
from moe_rules.cli.tuning import ORACLES, ask, tuned_questions
from moe_rules.engine.selection import adjusted
from moe_rules.files.problems import Location
from moe_rules.language.rules import Adjustment, Reason
from tests.cli.conftest import LAYER, Command

FP8 = [
    "--machine", "x86-amx-fp8", "--oracle", "fp8", *LAYER,
    "--weight", "kFp8Static128BlockSym", "--activation-key", "kFp8Dynamic128Sym",
]  # fmt: skip
"""A layer that two kernels of the CPU serve: CPU_W8A8, then CPU."""

TIMES = {1: (9.0, 5.0), 4: (9.0, 6.0), 64: (9.0, 8.9), 256: (9.0, 20.0), 1024: (9.0, 3.0)}
"""Microseconds of CPU_W8A8 and CPU by number of tokens."""


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels take the times of TIMES."""

    def measure(self: CpuMeasurer, tokens: int, seconds: float, progress: object) -> list[Measured]:
        return [
            Measured(self._layer, tokens, c.contender.backend, c.contender.kernel, us)
            for c, us in zip(self._loaded, TIMES[tokens], strict=True)
        ]

    monkeypatch.setattr(CpuMeasurer, "measure", measure)


@pytest.mark.usefixtures("times")
def test_the_measured_order_holds_range_by_range(cli: Command, tmp_path: Path) -> None:
    answer = cli("tune", *FP8, "--tokens", *TIMES, "--out", tmp_path)
    assert answer.code == 0, answer.err
    rules = tmp_path / "rules"
    assert f"wrote {rules / 'cpu-layer.yaml'}" in answer.out
    checked = cli("check", rules)
    assert checked.code == 0, checked.out

    without = cli("select", *FP8, "--format", "json").json
    assert (without["backend"], without["by_num_tokens"]) == ("CPU_W8A8", [])
    with_rules = cli("select", *FP8, "--rules", rules, "--format", "json").json
    assert [(r["first"], r["last"], r["backend"]) for r in with_rules["by_num_tokens"]] == [
        # Between 4 and 64, and 256 and 1024: the geometric middle. 1 % at 64 tokens is noise.
        (1, 16, "CPU"),
        (17, 512, "CPU_W8A8"),
        (513, None, "CPU"),
    ]


@pytest.mark.usefixtures("times")
def test_rules_say_what_they_were_measured_on(cli: Command, tmp_path: Path) -> None:
    cli("tune", *FP8, "--tokens", *TIMES, "--out", tmp_path)
    overlay = yaml.safe_load((tmp_path / "rules" / "cpu-layer.yaml").read_text())
    first, _ = overlay["oracles"]["fp8"]["adjust"]
    (evidence,) = first["evidence"]
    assert f"torch {torch.__version__.partition('+')[0]}" in evidence["versions"]
    assert evidence["figure"] == (
        "speed relative to CPU_W8A8: 1.80x with 1 tokens (5 us), 1.50x with 4 tokens (6 us)"
    )
    assert first["when"]["intermediate_size_per_partition"] == 512
    other = [word.replace("intermediate_size=512", "intermediate_size=1024") for word in FP8]
    answer = cli("select", *other, "--rules", tmp_path / "rules", "--format", "json")
    assert answer.json["by_num_tokens"] == [], "another layer was not measured"


@pytest.mark.usefixtures("times")
def test_no_rules_where_the_order_is_right(cli: Command, tmp_path: Path) -> None:
    answer = cli("tune", *FP8, "--tokens", 64, 256, "--out", tmp_path)
    assert answer.code == 0, answer.err
    assert not (tmp_path / "rules").exists()


@pytest.mark.usefixtures("times")
def test_a_run_is_gone_on_with(cli: Command, tmp_path: Path) -> None:
    cli("tune", *FP8, "--tokens", 1, "--out", tmp_path)
    refused = cli("tune", *FP8, "--tokens", 1, 4, "--out", tmp_path)
    assert refused.code == 2
    assert "--resume goes on with it" in refused.err
    answer = cli("tune", *FP8, "--tokens", 1, 4, "--out", tmp_path, "--resume")
    assert answer.code == 0
    assert len((tmp_path / "measured.jsonl").read_text().splitlines()) == 1 + 2 * 2


def test_real_kernels_are_measured(cli: Command, tmp_path: Path) -> None:
    answer = cli("tune", *FP8, "--tokens", 2, "--seconds", 1, "--out", tmp_path)
    assert answer.code == 0, answer.err
    rows = [line.split() for line in answer.out.splitlines() if line.startswith("2 ")]
    assert sorted(row[2] for row in rows) == ["CPUExpertsFp8", "CPUExpertsFp8W8A8"]
    assert all(float(row[3]) > 0 for row in rows)


def test_one_kernel_has_nothing_to_be_compared_with(cli: Command, tmp_path: Path) -> None:
    layer = ["--machine", "x86", "--oracle", "unquantized", *LAYER]
    answer = cli("tune", *layer, "--out", tmp_path)
    assert answer.code == 1
    assert "only one to measure, CPUUnquantizedExperts; tilings are searched on GPUs" in answer.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_tilings_need_a_gpu(cli: Command, tmp_path: Path) -> None:
    answer = cli("tune", "--machine", "h100", "--shape", "qwen3-30b-a3b", "--out", tmp_path)
    assert answer.code == 1
    assert "torch sees none here (--device cpu" in answer.err


def test_a_layer_without_a_kernel_of_ours(cli: Command, tmp_path: Path) -> None:
    answer = cli("tune", "--machine", "tpu", "--shape", "mixtral-8x7b", "--out", tmp_path)
    assert answer.code == 1
    assert "mixtral-8x7b-bf16 has no kernel to tune here" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "mixtral"], "invalid choice: 'mixtral'"),
        (["--shape", "mixtral-8x7b", "--model", "x"], "--shape and --model exclude each other"),
        (["--shape", "mixtral-8x7b", "--weight", "none"], "--shape and --weight exclude"),
        (["--scheme", "bf16"], "--scheme goes with --shape"),
        (["--tokens", "0"], "expected 1 or more, got 0"),
        ([], "without --model the layer has to be stated"),
        (["--model", "no-such-folder"], "no-such-folder"),
    ],
)
def test_wrong_input(cli: Command, words: list[str], message: str) -> None:
    answer = cli("tune", *words)
    assert answer.code == 2
    assert message in answer.err


def _asked(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(["tune", *words])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rules_let_our_kernel_of_a_scheme_serve_named_layers(scheme: str) -> None:
    assert set(ORACLES) == set(SCHEMES)
    shape = "gpt-oss-120b" if scheme == "mxfp4_w4a16" else "deepseek-v3-ep8"
    (asked,) = ask(_asked("--machine", "h100", "--shape", shape, "--scheme", scheme))
    ((tuned,), _) = tuned_questions(asked)
    expected = SCHEMES[scheme]
    assert tuned.layer.config == SHAPES[shape].moe_config(expected.in_dtype)
    contenders = {c.kernel: c for c in tuned.layer.contenders}
    ours = contenders.get(expected.kernel) or contenders["OAITritonMxfp4ExpertsMonolithic"]
    assert ours.weight_key == expected.weight_key
    assert ours.activation_key == expected.activation_key
    assert ours.group_size == expected.group_size


@given(st.permutations("ABCDE"), st.integers(1, 5))
def test_moves_make_the_wanted_order(wanted: list[str], count: int) -> None:
    wanted = wanted[:count]
    order = sorted(wanted)
    reason = Reason(None, Location("x"))
    adjustments = [
        Adjustment("before", (name,), reason=reason, anchor=other, when=None)  # type: ignore[arg-type]
        for name, other in moves(order, wanted)
    ]
    assert moved_by(adjustments, order) == wanted
    # Backends that were not measured keep their places among each other.
    others = ("X", *order[:1], "Y", *order[1:], "Z")
    moved = moved_by(adjustments, others)
    assert [name for name in moved if name in wanted] == wanted
    assert [name for name in moved if name not in wanted] == ["X", "Y", "Z"]


def moved_by(adjustments: list[Adjustment], order: Sequence[str]) -> list[str]:
    for adjustment in adjustments:
        order, _ = adjusted(adjustment, tuple(order), frozenset())
    return list(order)


@given(st.dictionaries(st.sampled_from("ABCDE"), st.floats(1, 100), min_size=1))
def test_only_what_is_clearly_faster_goes_ahead(us: dict[str, float]) -> None:
    order = sorted(us)
    found = measured_order(order, us)
    assert sorted(found) == order
    for name, other in pairwise(found):
        if order.index(name) > order.index(other):
            assert us[name] < us[other]


@pytest.mark.gpu
def test_tilings_are_searched_on_a_gpu(cli: Command, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    small = ["--oracle", "unquantized", *LAYER]
    answer = cli("tune", *small, "--tokens", 1, 64, "--seconds", 30, "--out", tmp_path)
    assert answer.code == 0, answer.err
    (path,) = (tmp_path / "configs").iterdir()
    assert torch.cuda.get_device_name().replace(" ", "_") in path.name
    assert GpuMeasurer("uniform", 0).facts["device"] == torch.cuda.get_device_name()
