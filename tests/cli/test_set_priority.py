"""set-priority: an overlay is written where something is decided otherwise, and only there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules import FusedMoEConfig, select_backend
from tests.cli.conftest import Command

Write = Callable[[str, str], Path]

LAYER = FusedMoEConfig(num_experts=8, experts_per_token=2, hidden_dim=4096, intermediate_size=14336)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def backend(machine: str, *overlays: str) -> str | None:
    decision = select_backend("unquantized", LAYER, machine=machine, rules=overlays, environ={})
    return decision.backend


TRITON_ON_BLACKWELL = (
    "set-priority", "unquantized", "TRITON", "--first", "--machine", "b200",
    "--when", "compute_capability=10.0", "--because", "faster for our shapes",
)  # fmt: skip


def test_an_overlay_is_written_and_what_it_changes_is_shown(cli: Command) -> None:
    assert backend("b200") != "TRITON"
    answer = cli(*TRITON_ON_BLACKWELL)
    assert answer.code == 0, answer.err
    assert "FLASHINFER_CUTLASS" in answer.out
    assert "TRITON / TritonExperts" in answer.out
    assert "compute_capability" in answer.out
    assert answer.out.endswith("wrote moe-rules/cuda.yaml; --rules moe-rules applies it\n")
    assert backend("b200", "moe-rules") == "TRITON"
    assert backend("h100", "moe-rules") == backend("h100")
    assert cli("check", "moe-rules").code == 0


def test_what_has_no_effect_is_refused(cli: Command) -> None:
    cli(*TRITON_ON_BLACKWELL)
    written = Path("moe-rules/cuda.yaml").read_bytes()
    for rules in ([], ["--rules", "moe-rules"]):
        answer = cli(*TRITON_ON_BLACKWELL, *rules)
        assert answer.code == 1
        assert "it has no effect: unquantized on cuda decides every layer as before" in answer.err
        assert Path("moe-rules/cuda.yaml").read_bytes() == written


def test_what_is_no_utf8_is_refused(cli: Command) -> None:
    for option, word in (("--because", "\udcff"), ("--when", "activation=\udcff")):
        answer = cli(*TRITON_ON_BLACKWELL, option, word)
        assert (answer.code, answer.out) == (2, "")
        assert "is no UTF-8" in answer.err
    assert not Path("moe-rules").exists()


def test_nothing_is_written_for_a_dry_run(cli: Command) -> None:
    answer = cli(*TRITON_ON_BLACKWELL, "--dry-run")
    assert answer.code == 0
    assert "TRITON / TritonExperts" in answer.out
    assert not Path("moe-rules").exists()


def test_the_difference_is_that_to_all_other_overlays(cli: Command, write: Write) -> None:
    write("others/cuda.yaml", "platform: cuda\noracles:\n  unquantized:\n    priority: [TRITON]\n")
    answer = cli(*TRITON_ON_BLACKWELL, "--rules", "others")
    assert answer.code == 1, answer.out


def test_an_overlay_that_applies_already_is_edited_where_it_stands(
    cli: Command, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        "mine/a.yaml", "# Ours.\nplatform: cuda\noracles:\n  unquantized:\n    priority: [MOONEP]\n"
    )
    write("mine/b.yaml", "platform: rocm\n")
    monkeypatch.setenv("MOE_RULES_PATH", "mine")
    answer = cli(*TRITON_ON_BLACKWELL, "--into", "mine/a.yaml")
    assert answer.code == 0, answer.err
    assert answer.out.endswith("wrote mine/a.yaml\n")
    assert Path("mine/a.yaml").read_text().startswith("# Ours.\nplatform: cuda\n")
    assert Path("mine/b.yaml").read_text() == "platform: rocm\n"


def test_evidence_is_written_as_it_is_given(cli: Command) -> None:
    evidence = "{device: B200, date: 2026-11-23, versions: triton 3.6, figure: 1.2x at 64 tokens}"
    assert cli(*TRITON_ON_BLACKWELL, "--evidence", evidence).code == 0
    assert f"- {evidence}" in Path("moe-rules/cuda.yaml").read_text()


WRONG = {
    "oracle": (("unquantised", "TRITON", "--first"), "did you mean 'unquantized'?"),
    "backend": (("unquantized", "TRITN", "--first"), "did you mean 'TRITON'?"),
    "other": (("unquantized", "TRITON", "--after", "MOON"), "did you mean 'MOONEP'?"),
    "itself": (("unquantized", "TRITON", "--after", "TRITON"), "cannot move by itself"),
    "platform": (("unquantized", "TRITON", "--last", "--platform", "cudda"), "mean 'cuda'?"),
    "machine": (("unquantized", "TRITON", "--last", "--machine", "h101"), "nearest: h100"),
    "fact": (("unquantized", "TRITON", "--last", "--when", "num_expert=1"), "'num_experts'?"),
    "value": (
        ("unquantized", "TRITON", "--last", "--when", "activation=sliu"),
        "moe-rules/cuda.yaml:5:28: activation cannot be 'sliu'; did you mean 'silu'?",
    ),
    "evidence": (
        ("unquantized", "TRITON", "--last", "--evidence", "{device: B200}"),
        "moe-rules/cuda.yaml:8:13: key 'date' is missing",
    ),
    "no place": (("unquantized", "TRITON"), "one of the arguments --first --last"),
    "two places": (("unquantized", "TRITON", "--first", "--last"), "not allowed with"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_words_are_an_error_and_nothing_is_written(
    cli: Command, words: tuple[str, ...], message: str
) -> None:
    platform = () if {"--platform", "--machine"} & set(words) else ("--platform", "cuda")
    answer = cli("set-priority", *words, *platform, "--because", "x")
    assert answer.code == 2
    assert message in answer.err
    assert not Path("moe-rules").exists()


def test_an_overlay_that_cannot_be_edited_is_an_error(cli: Command, write: Write) -> None:
    write("moe-rules/cuda.yaml", "platform: cuda\noracles: {unquantized: {}}\n")
    answer = cli(*TRITON_ON_BLACKWELL)
    assert answer.code == 2
    assert "moe-rules/cuda.yaml:2: oracles.unquantized does not stand in a block" in answer.err
