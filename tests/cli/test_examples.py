"""test: examples beside rules hold or say what came instead, and which lines they cover."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.files.packaged import packaged_rules
from tests.cli.conftest import Command

Write = Callable[[str, str], Path]

OVERLAY = """\
platform: cuda
oracles:
  unquantized:
    adjust:
      - {when: {compute_capability: "10.0"}, first: [TRITON], because: faster for our shapes}
      - {when: {compute_capability: "12.0"}, first: [TRITON], because: no example is about it}
"""
HEAD = """\
oracle: unquantized
facts: {num_experts: 8, experts_per_token: 2, hidden_dim: 4096, intermediate_size: 14336}
examples:
"""
ON_B200 = """\
  - name: Triton on B200
    machine: b200
    expect: {backend: TRITON, kernel: TritonExperts, how: auto}
"""


@pytest.fixture
def mine(write: Write) -> Callable[[str], Path]:
    """A folder with an overlay and these examples."""

    def make(examples: str = ON_B200, head: str = HEAD) -> Path:
        write("mine/cuda.yaml", OVERLAY)
        return write("mine/cuda.test.yaml", head + examples).parent

    return make


def test_the_packaged_examples_hold(cli: Command) -> None:
    answer = cli("test", "--format", "json")
    assert answer.code == 0, answer.out
    assert {Path(file).name for file in answer.json["files"]} >= {"fp8.test.yaml"}
    assert len(answer.json["examples"]) >= 10


def test_examples_are_asked_with_the_overlay_that_they_lie_in(
    cli: Command, mine: Callable[[], Path]
) -> None:
    folder = mine()
    answer = cli("test", folder)
    assert (answer.code, answer.out) == (0, "no findings in 1 example of 1 file\n")
    (folder / "cuda.yaml").unlink()
    without = cli("test", folder)
    assert without.code == 1
    assert "expected backend TRITON, came backend FLASHINFER_CUTLASS" in without.out
    with_another = cli("test", folder, "--rules", _copy(folder))
    assert with_another.code == 0, with_another.out


def _copy(folder: Path) -> Path:
    other = folder.parent / "other"
    other.mkdir()
    (other / "cuda.yaml").write_text(OVERLAY)
    return other


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        (
            "{backend: MARLIN}",
            "expected backend MARLIN, came backend TRITON: faster for our",
        ),
        ("{kernel: none}", "expected kernel none, came kernel TritonExperts"),
        ("{how: requested}", "expected how requested, came how auto"),
        ("{order: [TRITON]}", "expected order TRITON, came order TRITON, "),
        ("{error: not_supported}", "expected error not_supported, came no error"),
    ],
)
def test_what_came_instead_is_said_with_its_reason_and_place(
    cli: Command, mine: Callable[[str], Path], expect: str, message: str
) -> None:
    answer = cli("test", mine(f"  - {{name: one, machine: b200, expect: {expect}}}\n"))
    assert answer.code == 1
    assert message in answer.out
    assert "mine/cuda.test.yaml:4:" in answer.out
    assert "mine/cuda.yaml:5" in answer.out or "order" in message


def test_an_error_that_nobody_expects_is_a_finding_of_its_own(
    cli: Command, mine: Callable[[str], Path]
) -> None:
    asked = "{name: one, machine: b200, facts: {moe_backend: nothing}, expect: {backend: TRITON}}"
    answer = cli("test", mine(f"  - {asked}\n"))
    assert answer.code == 1
    assert answer.out.count("error:") == 1
    assert "came error invalid_request: moe_backend='nothing' is no backend" in answer.out


def test_facts_alone_may_say_what_the_machine_is(cli: Command, mine: Callable[[str], Path]) -> None:
    stated = '{name: one, facts: {device: cuda, compute_capability: "10.0"}, expect: {how: auto}}'
    assert cli("test", mine(f"  - {stated}\n")).code == 0


WRONG = {
    "unknown fact": (
        "{name: one, machine: b200, facts: {num_expert: 8}, expect: {how: auto}}",
        "there is no fact 'num_expert' to state; did you mean 'num_experts'?",
    ),
    "derived fact": (
        "{name: one, machine: b200, facts: {all2all: mori}, expect: {how: auto}}",
        "there is no fact 'all2all' to state",
    ),
    "bad value": (
        "{name: one, machine: b200, facts: {activation: sliu}, expect: {how: auto}}",
        "activation cannot be 'sliu'; did you mean 'silu'?",
    ),
    "unknown key": ("{name: one, expects: {how: auto}}", "did you mean 'expect'?"),
    "nothing expected": ("{name: one, machine: b200, expect: {}}", "expect says nothing"),
    "unknown oracle": (
        "{name: one, machine: b200, oracle: fp88, expect: {how: auto}}",
        "'fp88' is not allowed; did you mean 'fp8'?",
    ),
    "declared twice": (
        "{name: one, machine: b200, expect: {how: auto}}\n"
        "  - {name: one, machine: b200, expect: {how: auto}}",
        "'one' is the name of another example already",
    ),
}
NOT_DECIDED = {
    "unknown machine": (
        "{name: one, machine: b2000, expect: {how: auto}}",
        "no machine is named 'b2000'",
    ),
    "no machine": ("{name: one, expect: {how: auto}}", "platform: no device is given"),
    "sizes that do not divide": (
        "{name: one, machine: b200, facts: {tp_size: 3}, expect: {how: auto}}",
        "intermediate_size 14336 is not divisible by tp_size 3",
    ),
}


@pytest.mark.parametrize("command", ["test", "check"])
@pytest.mark.parametrize(("example", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_file_is_a_finding_with_its_place(
    cli: Command, mine: Callable[[str], Path], command: str, example: str, message: str
) -> None:
    answer = cli(command, mine(f"  - {example}\n"))
    assert answer.code == 1
    assert message in answer.out
    assert "mine/cuda.test.yaml:" in answer.out


@pytest.mark.parametrize(("example", "message"), NOT_DECIDED.values(), ids=NOT_DECIDED)
def test_facts_that_allow_no_decision_are_a_finding(
    cli: Command, mine: Callable[[str], Path], example: str, message: str
) -> None:
    answer = cli("test", mine(f"  - {example}\n"))
    assert answer.code == 1
    assert f"one: {message}" in answer.out
    assert "mine/cuda.test.yaml:4:" in answer.out


def test_a_layer_without_its_sizes_is_a_finding(cli: Command, mine: Callable[..., Path]) -> None:
    answer = cli("test", mine(ON_B200, "oracle: unquantized\nexamples:\n"))
    assert answer.code == 1
    assert "facts do not give num_experts, experts_per_token, hidden_dim, intermed" in answer.out


def test_without_examples_nothing_can_be_run(cli: Command, write: Write) -> None:
    path = write("mine/cuda.yaml", OVERLAY)
    for asked in (path, path.parent):
        answer = cli("test", asked)
        assert answer.code == 2
        assert "no examples; their files end in .test.yaml" in answer.err
    assert cli("test", "nowhere").code == 2


def test_wrong_rules_are_an_error(cli: Command, mine: Callable[[], Path]) -> None:
    folder = mine()
    (folder / "cuda.yaml").write_text("platform: cuda\noracle: {}\n")
    answer = cli("test", folder)
    assert answer.code == 2
    assert "unknown key 'oracle'" in answer.err


def test_coverage_names_the_lines_that_make_no_difference(
    cli: Command, mine: Callable[[], Path]
) -> None:
    answer = cli("test", mine(), "--coverage")
    assert answer.code == 0
    assert "mine/cuda.yaml:6: warning: this line makes no difference" in answer.out
    assert "mine/cuda.yaml:5:" not in answer.out
    assert "1 of 2 lines of rules are covered (50.0 %)" in answer.out


def test_what_covers_a_line(cli: Command, write: Write) -> None:
    write(
        "mine/cuda.yaml",
        """\
        platform: cuda
        oracles:
          unquantized:
            switches:
              - {when: {num_experts: 1}, drop: [TRITON], because: one}
              - {when: {num_experts: 2}, refuse: two}
            requests:
              mine: MINE
            adjust:
              - {when: {num_experts: ">=3"}, withdraw: [TRITON], because: three}
            backends:
              MINE:
                kernels: [MineExperts]
                requires:
                  hidden_dim: "<=1024"
        kernels:
          MineExperts:
            supports: []
            requires:
              has_bias: false
              num_experts: "<=64"
        """,
    )
    asked = """\
    oracle: unquantized
    machine: h100
    facts: {experts_per_token: 1, hidden_dim: 512, intermediate_size: 512, num_experts: 4}
    examples:
    """
    examples = {
        "{name: a, facts: {num_experts: 1}, expect: {how: auto}}": {5},
        "{name: a, facts: {num_experts: 2}, expect: {error: invalid_request}}": {6},
        "{name: a, facts: {moe_backend: mine}, expect: {backend: MINE}}": {8, 10, 12, 17},
        "{name: a, facts: {moe_backend: mine, hidden_dim: 2048}, expect: {error: "
        "invalid_request}}": {8, 10, 15},
        "{name: a, facts: {moe_backend: mine, has_bias: true, num_experts: 65}, "
        "expect: {error: invalid_request}}": {8, 10, 20, 21},
    }
    lines = {5, 6, 8, 10, 12, 15, 17, 18, 20, 21}
    for example, covered in examples.items():
        write("mine/cuda.test.yaml", asked + f"  - {example}\n")
        found = json.loads(
            cli("test", write("mine/x", "").parent, "--coverage", "--format", "json").out
        )
        uncovered = {f["line"] for f in found["findings"] if f["code"] == "uncovered"}
        assert lines - uncovered == covered, example
        assert found["errors"] == 0


def test_too_little_coverage_is_an_error(cli: Command, mine: Callable[[], Path]) -> None:
    assert cli("test", mine(), "--fail-under", "50").code == 0
    answer = cli("test", mine(), "--fail-under", "51")
    assert answer.code == 1
    assert "1 of 2 lines of rules are covered (50.0 %); 51 % are wanted [coverage]" in answer.out
    assert cli("test", mine(), "--fail-under", "101").code == 2


def test_junit_has_a_case_for_each_example(cli: Command, mine: Callable[[str], Path]) -> None:
    wrong = "  - {name: wrong, machine: b200, expect: {backend: MARLIN}}\n"
    suite = ElementTree.fromstring(cli("test", mine(ON_B200 + wrong), "--format", "junit").out)
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == (
        "moe-rules test",
        "2",
        "1",
    )
    right, failed = suite.findall("testcase")
    assert right.get("name") == "Triton on B200"
    assert right.find("failure") is None
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("type") == "other-backend"
    assert str(failed.get("classname")).endswith("cuda.test.yaml")


def test_junit_has_a_case_for_a_file_that_cannot_be_read(
    cli: Command, mine: Callable[[str], Path]
) -> None:
    suite = ElementTree.fromstring(cli("test", mine("  - x\n"), "--format", "junit").out)
    (case,) = suite.findall("testcase")
    assert suite.get("failures") == "1"
    assert str(case.get("name")).endswith("cuda.test.yaml")


def test_a_copy_of_the_rules_is_tested_by_itself(
    cli: Command, tmp_path: Path, write: Write
) -> None:
    """As a checkout that changes packaged tables: the copy's decide, not those installed."""
    text = (packaged_rules() / "cuda/fp8.yaml").read_text()
    for name in ("vocabulary.yaml", *(f"cuda/{p.name}" for p in _rules_of("cuda"))):
        write(f"copy/{name}", (packaged_rules() / name).read_text())
    write("copy/cuda/fp8.yaml", text.replace("first: [TRITON]", "first: [MARLIN]"))
    answer = cli("test", tmp_path / "copy/cuda/fp8.test.yaml")
    assert answer.code == 1
    assert "expected backend TRITON, came backend MARLIN" in answer.out


def _rules_of(platform: str) -> list[Path]:
    return sorted((packaged_rules() / platform).glob("*.yaml"))
