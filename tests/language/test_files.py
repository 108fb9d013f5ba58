"""Wrong rule files: each gives a clear error with its place, all errors of a file at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.files.problems import RuleFileError
from moe_rules.language.ruleset import load_platform
from tests.conftest import SMALL, MakeRules

Write = Callable[[str, str | bytes], Path]


def errors(write: Write, tmp_path: Path, text: str | bytes) -> list[str]:
    write("packaged/cuda.yaml", text)
    with pytest.raises(RuleFileError) as caught:
        load_platform("cuda", packaged=tmp_path / "packaged")
    return [str(problem) for problem in caught.value.problems]


BAD = {
    "unknown key": (
        SMALL.replace("priority:", "prioritie:"),
        ":5:5: error: unknown key 'prioritie'; did you mean 'priority'?",
    ),
    "unknown top-level key": (SMALL + "\nkernel: {}\n", "'kernel'; did you mean 'kernels'?"),
    "unknown oracle": (
        SMALL.replace("unquantized:", "unquantised:"),
        "'unquantised' is not allowed; did you mean 'unquantized'?",
    ),
    "unknown platform": (SMALL.replace("cuda", "cudda"), "did you mean 'cuda'?"),
    "missing key": (SMALL.replace("platform: cuda", ""), "key 'platform' is missing"),
    "duplicate key": (
        SMALL + "  SlowExperts: {}\n",
        "duplicate key 'SlowExperts'; it stands first at line",
    ),
    "unknown fact": (
        SMALL.replace("num_experts:", "num_expert:"),
        "there is no fact 'num_expert'; did you mean 'num_experts'?",
    ),
    "unknown value": (
        SMALL.replace('num_experts: "<=64"', "activation: sliu"),
        "activation cannot be 'sliu'; did you mean 'silu'?",
    ),
    "bad range": (SMALL.replace('"<=64"', '"<=lots"'), "'lots' is not a number"),
    "range without a bound": (SMALL.replace('"<=64"', '"<=inf"'), "'inf' is not a number"),
    "digits of another script": (SMALL.replace("9.0", "9.\N{SUPERSCRIPT TWO}"), "not a version"),
    "family of no version": (
        SMALL.replace('">=9.0"', '"\N{SUPERSCRIPT TWO}.*"'),
        "is not a version",
    ),
    "more digits than Python reads": (
        SMALL.replace('"<=64"', "9" * 5000),
        "num_experts cannot be '9999",
    ),
    "a tag that the text does not fit": (
        SMALL.replace('"<=64"', "!!int '+-5'"),
        "num_experts cannot be '+-5'",
    ),
    "compared with what differs from call to call": (
        SMALL.replace('"<=64"', "{same_as: num_tokens}"),
        "num_tokens differs from call to call",
    ),
    "copy of what differs from call to call": (
        SMALL.replace(
            "    requests:",
            "    assume: [{set: {num_experts: {value_of: num_tokens}}}]\n    requests:",
        ),
        "num_tokens differs from call to call",
    ),
    "backend without entry": (
        SMALL.replace("priority: [FAST, SLOW]", "priority: [FAST, SLOWW]"),
        "declares no backend 'SLOWW'; did you mean 'SLOW'?",
    ),
    "backend twice in the priority": (
        SMALL.replace("priority: [FAST, SLOW]", "priority: [FAST, FAST]"),
        "'FAST' stands in the priority twice",
    ),
    "backend twice in an adjustment": (
        SMALL.replace("    requests:", "    adjust: [{first: [SLOW, SLOW]}]\n    requests:"),
        "'SLOW' stands in the first twice",
    ),
    "request of an absent backend": (
        SMALL.replace("slow: SLOW}", "slow: SLO}"),
        "declares no backend 'SLO'",
    ),
    "undeclared kernel": (
        SMALL.replace("kernels: [FastExperts]", "kernels: [FasterExperts]"),
        "no kernel 'FasterExperts' is declared; did you mean 'FastExperts'?",
    ),
    "adjustment of an absent backend": (
        SMALL.replace("    requests:", "    adjust: [{last: [SLWO]}]\n    requests:"),
        "declares no backend 'SLWO'; did you mean 'SLOW'?",
    ),
    "two actions in one adjustment": (
        SMALL.replace(
            "    requests:", "    adjust: [{last: [FAST], first: [SLOW]}]\n    requests:"
        ),
        "exactly one of: first, last, move, drop, withdraw",
    ),
    "contradictory adjustments": (
        SMALL.replace(
            "    requests:",
            "    adjust:\n"
            "      - {when: {use_ep: true}, first: [FAST]}\n"
            "      - {when: {use_ep: true}, last: [FAST]}\n"
            "    requests:",
        ),
        "'FAST' goes last here and first at line 7, under the same condition",
    ),
    "cyclic adjustments": (
        SMALL.replace(
            "    requests:",
            "    adjust:\n"
            "      - {move: SLOW, after: FAST}\n"
            "      - {move: SLOW, before: FAST}\n"
            "    requests:",
        ),
        "contradicts the adjustments before it",
    ),
    "move without a place": (
        SMALL.replace("    requests:", "    adjust: [{move: FAST}]\n    requests:"),
        "move goes with before or after",
    ),
    "step without an action": (
        SMALL.replace("    requests:", "    switches: [{because: no reason}]\n    requests:"),
        "exactly one of: take, try, force, refuse, drop",
    ),
    "step with a key of another action": (
        SMALL.replace(
            "    requests:",
            "    switches: [{take: FAST, requires: {use_ep: true}}]\n    requests:",
        ),
        "'requires' says nothing with 'take'",
    ),
    "unknown feature": (
        SMALL.replace("[lora,", "[lorra,"),
        "there is no feature 'lorra'; did you mean 'lora'?",
    ),
    "kernel that extends nothing": (
        SMALL.replace("  SlowExperts:\n", "  SlowExperts:\n    extends: Nothing\n"),
        "there is no kernel 'Nothing'",
    ),
    "kernel that extends itself": (
        SMALL.replace("  SlowExperts:\n", "  SlowExperts:\n    extends: SlowExperts\n"),
        "entry extends itself: SlowExperts -> SlowExperts",
    ),
    "condition that refers to itself": (
        SMALL + "\nconditions:\n  here: {is: there}\n  there: {is: here}\n",
        "condition refers to itself",
    ),
    "not YAML": ("platform: [cuda\noracles: {", "not YAML"),
    "empty": ("", "is empty"),
    "only comments": ("# nothing\n", "is empty"),
    "two documents": ("platform: cuda\n---\nplatform: cuda\n", "not YAML"),
    "a list": ("- platform: cuda\n", "a mapping is expected here"),
    "not UTF-8": (b"platform: cuda # \xff\n", "byte 0xff is not UTF-8"),
    "too deep": ("a: " + "[" * 5000 + "]" * 5000, "nested deeper than"),
    "YAML bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n"
            for i in range(8)
        ),
        "expands to more than",
    ),
    "key that is no word": ("platform: cuda\n? [a, b]\n: c\n", "a key must be a word"),
    "another platform's file": (SMALL.replace("cuda", "rocm"), "says 'platform: rocm'"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_named_with_its_place(case: str, write: Write, tmp_path: Path) -> None:
    text, fragment = BAD[case]
    found = errors(write, tmp_path, text)
    assert any(fragment in error for error in found), found
    assert all("cuda.yaml" in error for error in found)


def test_all_errors_of_all_files_come_at_once(write: Write, tmp_path: Path) -> None:
    write("packaged/cuda/more.yaml", "platform: cuda\nkernelz: {}\n")
    found = errors(write, tmp_path, SMALL.replace("num_experts", "n").replace("[lora,", "[l,"))
    assert len(found) == 1, "shape errors are reported before names are resolved"
    (tmp_path / "packaged/cuda/more.yaml").unlink()
    found = errors(write, tmp_path, SMALL.replace("num_experts", "n").replace("[lora,", "[l,"))
    assert [error.split("[")[-1] for error in found] == ["unknown-fact]", "unknown-feature]"]


def test_missing_file_directory_and_permission(write: Write, tmp_path: Path) -> None:
    from moe_rules.files.yaml_source import read_yaml

    with pytest.raises(RuleFileError, match="there is no file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(RuleFileError, match="is a directory"):
        read_yaml(tmp_path)
    locked = write("locked.yaml", "a: 1")
    locked.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(RuleFileError, match="no permission"):
            read_yaml(locked)


def test_declared_twice_in_two_files_names_both(write: Write, tmp_path: Path) -> None:
    write("packaged/cuda/more.yaml", "platform: cuda\nkernels:\n  SlowExperts: {}\n")
    (error,) = errors(write, tmp_path, SMALL)
    assert "'SlowExperts' is declared already at" in error
    assert "more.yaml:3:3" in error


def test_unused_entries_are_warnings(small: MakeRules) -> None:
    rules = small(rules=SMALL + "  IdleExperts: {}\n").rules
    assert [(w.code, w.severity) for w in rules.warnings] == [("unused-kernel", "warning")]
