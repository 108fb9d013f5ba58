"""An adjustment put into an overlay: it says what was asked, and every other line stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.cli.errors import UserError
from moe_rules.cli.overlay_edit import Adjustment, as_in_a_file, conditions_of, edited, file_of
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.yaml_source import parse_yaml
from moe_rules.vocabulary.facts import FACTS

Write = Callable[[str, str], Path]

MINE = """\
# Of our team.
platform: cuda   # the GPUs

oracles:
  unquantized:
    adjust:
    # The first.
    - {when: {compute_capability: "10.0"}, first: [TRITON], because: ours}  # measured

    - when: {num_experts: 8}
      name: few_experts
      last: [TRITON]
      because: >-
        over
        lines
      # An end.
  # Another end.
conditions: {small: {num_experts: "<8"}}
"""
ON_BLACKWELL = Adjustment("TRITON", "last", None, {"compute_capability": "10.0"}, "slower")


def put(text: str, adjustment: Adjustment, oracle: str = "unquantized") -> str:
    return edited(text, "mine.yaml", "cuda", oracle, adjustment)


def adjust(text: str, oracle: str = "unquantized") -> Any:
    return parse_yaml(text, "mine.yaml").data["oracles"][oracle]["adjust"]


def test_a_new_file() -> None:
    evidence = {"device": "H200", "date": "2026-11-23", "versions": "a, b", "figure": "1.2x"}
    text = put("", ON_BLACKWELL.replaced(evidence=(evidence,)))
    assert text == (
        "platform: cuda\n"
        "oracles:\n"
        "  unquantized:\n"
        "    adjust:\n"
        '      - when: {compute_capability: "10.0"}\n'
        "        last: [TRITON]\n"
        "        because: slower\n"
        "        evidence:\n"
        '          - {device: H200, date: 2026-11-23, versions: "a, b", figure: 1.2x}\n'
    )


def test_an_entry_is_added_after_the_last_and_no_other_line_changes() -> None:
    other = Adjustment("TRITON", "before", "MARLIN", {}, "for everything")
    text = put(MINE, other)
    assert [line for line in text.splitlines() if line not in MINE.splitlines()] == [
        "    - move: TRITON",
        "      before: MARLIN",
        "      because: for everything",
    ]
    assert adjust(text) == [*adjust(MINE), other.entry()]
    assert text.index("lines\n    - move") > 0


def test_an_entry_about_the_same_is_replaced_where_it_stands() -> None:
    text = put(MINE, ON_BLACKWELL)
    assert adjust(text) == [ON_BLACKWELL.entry(), adjust(MINE)[1]]
    assert "# The first.\n    - when" in text
    assert "because: slower  # measured" in text
    assert put(text, ON_BLACKWELL) == text


def test_what_others_call_an_entry_stays() -> None:
    few = Adjustment("TRITON", "first", None, {"num_experts": 8}, "faster")
    assert adjust(put(MINE, few))[1] == {"name": "few_experts", **few.entry()}
    assert "# An end." in put(MINE, few)


@pytest.mark.parametrize("oracle", ["fp8", "unquantized"])
def test_sections_that_are_missing_are_made(oracle: str) -> None:
    for text in (
        "platform: cuda\n",
        "platform: cuda\noracles:\n  unquantized:\n    priority: []\n",
    ):
        made = put(text, ON_BLACKWELL, oracle)
        assert made.startswith(text)
        assert adjust(made, oracle) == [ON_BLACKWELL.entry()]


PACKAGED = sorted((packaged_rules() / "cuda").glob("[!k]*[!t].yaml"))


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.name)
def test_files_as_they_are_written_keep_every_line(path: Path) -> None:
    before = path.read_text()
    after = put(before, ON_BLACKWELL, "fp8")
    lines = iter(after.splitlines())
    assert all(line in lines for line in before.splitlines()), "in the same order"
    data = parse_yaml(before, "").data
    data.setdefault("oracles", {}).setdefault("fp8", {}).setdefault("adjust", []).append(
        ON_BLACKWELL.entry()
    )
    assert parse_yaml(after, "").data == data


def test_line_ends_are_kept() -> None:
    text = put(MINE.replace("\n", "\r\n"), ON_BLACKWELL)
    assert text.count("\n") == text.count("\r\n")


@pytest.mark.parametrize(
    "text",
    [
        "platform: cuda\noracles: {unquantized: {adjust: []}}\n",
        "platform: cuda\noracles:\n  unquantized:\n    adjust: []\n",
        "platform: cuda\noracles:\n  unquantized:\n    adjust:\n",
        "platform: cuda\noracles:\n",
        "{platform: cuda}\n",
    ],
)
def test_what_is_no_block_is_an_error_with_its_place(text: str) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml:\d: .* does not stand in a block"):
        put(text, ON_BLACKWELL)


def test_a_file_of_another_platform_is_an_error() -> None:
    with pytest.raises(UserError, match=r"mine\.yaml is no file of platform cuda"):
        put("platform: rocm\n", ON_BLACKWELL)
    with pytest.raises(UserError, match=r"mine\.yaml is no file of platform cuda alone"):
        put("platform: [cuda, rocm]\n", ON_BLACKWELL)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "))


@given(TEXTS.filter(str.strip), st.lists(TEXTS.filter(bool), min_size=1), st.integers())
def test_any_text_is_read_as_it_was_given(because: str, words: list[str], number: int) -> None:
    when = {"model_type": words, "num_experts": number, "gfx": words[0]}
    change = ON_BLACKWELL.replaced(because=because, when=when)
    for text in ("", MINE):
        made = put(text, change)
        assert adjust(made)[-1] == change.entry()
        assert adjust(put(made, change)) == adjust(made)


def test_which_file_of_a_folder(write: Write, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    assert file_of(mine, "cuda", "fp8") == mine / "cuda.yaml"
    assert file_of(mine / "x.yaml", "cuda", "fp8") == mine / "x.yaml"
    write("mine/a.yaml", "platform: rocm\n")
    write("mine/all.yaml", "platform: [cuda, rocm]\noracles: {fp8: {}}\n")
    write("mine/b.yaml", "platform: cuda\n")
    write("mine/c.yaml", "platform: cuda\noracles: {fp8: {}}\n")
    write("mine/d.test.yaml", "oracle: fp8\n")
    assert file_of(mine, "cuda", "fp8").name == "c.yaml"
    assert file_of(mine, "cuda", "int8").name == "b.yaml"
    assert file_of(mine, "cpu", "fp8").name == "cpu.yaml"


def test_conditions_are_written_as_in_a_file() -> None:
    words = [
        "compute_capability=10.0",
        "num_experts = >=128",
        "experts_per_token=8",
        "use_ep=false",
        "hidden_dim={multiple_of: 128}",
        "activation=[silu, gelu]",
        "model_type=true",
        "is=fp8_block",
    ]
    assert conditions_of(words, FACTS) == {
        "compute_capability": "10.0",
        "num_experts": ">=128",
        "experts_per_token": 8,
        "use_ep": False,
        "hidden_dim": {"multiple_of": 128},
        "activation": ["silu", "gelu"],
        "model_type": "true",
        "is": "fp8_block",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["num_expert=8"], "there is no such fact; did you mean 'num_experts'?"),
        (["num_experts"], "write it as FACT=VALUE"),
        (["num_experts="], "write it as FACT=VALUE"),
        (["num_experts=8", "num_experts=9"], r"given twice; write num_experts=\[A, B\]"),
        (["num_experts=[8"], r"--when \[8: not YAML"),
    ],
)
def test_wrong_conditions(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        conditions_of(words, FACTS)


def test_evidence_is_written_as_in_a_file() -> None:
    assert as_in_a_file("{device: H200, date: 2026-11-23}", "--evidence") == {
        "device": "H200",
        "date": "2026-11-23",
    }
