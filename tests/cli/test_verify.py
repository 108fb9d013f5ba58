"""verify: findings with their places and commands, what is accepted, and the packaged rules."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.cli.verifying import verify
from moe_rules.files.packaged import packaged_rules
from moe_rules.language.finding_codes import CODES
from tests.cli.conftest import ROOT, Command

Write = Callable[[str, str], Path]

DOCUMENT = (ROOT / "docs" / "verify.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(platform.*?)```", DOCUMENT, re.DOTALL)
IDLE = "platform: cpu\noracles:\n  unquantized:\n    adjust:\n      - {first: [CPU]%s}\n"


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_of_the_document_have_what_their_lines_say(write: Write, text: str) -> None:
    path = write("mine.yaml", text)
    found: dict[int, set[str]] = {}
    for problem in verify([path]).problems:
        if problem.severity == "error":
            found.setdefault(problem.location.line, set()).add(problem.code)
    wanted = {
        number: {line.rpartition("# ")[2]}
        for number, line in enumerate(text.splitlines(), 1)
        if "# " in line
    }
    assert found == wanted


def test_the_document_has_every_code() -> None:
    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", DOCUMENT)) >= {*CODES, "needless-acceptance"}


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_command_of_every_witness_can_be_run(cli: Command, write: Write, text: str) -> None:
    path = write("mine.yaml", text)
    answer = cli("verify", path, "--format", "json")
    assert answer.code == 1
    commands = 0
    for finding in answer.json["findings"]:
        _, see, command = finding["message"].partition("; see: moe-rules ")
        assert bool(see) == ("witness" in finding)
        if see:
            commands += 1
            explained = cli(*shlex.split(command))
            assert explained.code in (0, 1), explained.err
            assert "oracle" in explained.out
    assert commands


@pytest.mark.parametrize(
    "path",
    [
        packaged_rules() / "cuda",
        packaged_rules() / "rocm",
        packaged_rules() / "cpu",
        packaged_rules() / "xpu.yaml",
        packaged_rules() / "tpu.yaml",
        packaged_rules() / "out_of_tree.yaml",
        packaged_rules() / "unspecified.yaml",
        packaged_rules() / "shared",
        *sorted((packaged_rules() / "overlays").iterdir()),
        *sorted((packaged_rules() / "releases").iterdir()),
    ],
    ids=lambda path: path.stem,
)
def test_all_that_is_found_in_the_packaged_rules_is_accepted(path: Path) -> None:
    assert verify([path]).problems == ()


def test_formats_and_exit_codes(cli: Command, write: Write) -> None:
    path = write("mine.yaml", IDLE % "")
    text = cli("verify", path)
    assert (text.code, text.out.splitlines()[-1]) == (1, "1 error in 1 file")
    assert "mine.yaml:5:9: error: without this adjustment" in text.out
    for name in ("github", "sarif", "junit"):
        answer = cli("verify", path, "--format", name)
        assert (answer.code, "adjustment-without-effect" in answer.out) == (1, True)
    missing = cli("verify", "nowhere")
    assert (missing.code, "there is no such file" in missing.err) == (2, True)
    wrong = cli("verify", write("wrong.yaml", "platform: cpu\noracle: {}\n"))
    assert (wrong.code, "unknown key 'oracle'" in wrong.err) == (2, True)


def test_what_is_accepted_is_no_finding(cli: Command, write: Write) -> None:
    reason = ", accepted: {adjustment-without-effect: for others}"
    assert cli("verify", write("mine.yaml", IDLE % reason)).code == 0
    whole = "accepted: {adjustment-without-effect: for others}\n" + IDLE % ""
    assert cli("verify", write("whole.yaml", whole)).code == 0


def test_what_is_accepted_and_not_found_is_a_finding(cli: Command, write: Write) -> None:
    needless = write(
        "mine.yaml", IDLE % ", accepted: {redundant-clause: why, adjustment-without-effect: so}"
    )
    answer = cli("verify", needless, "--format", "json")
    assert [one["code"] for one in answer.json["findings"]] == ["needless-acceptance"]
    unknown = write("unknown.yaml", IDLE % ", accepted: {adjustment-without-effects: so}")
    answer = cli("check", unknown)
    assert answer.code == 1
    assert "did you mean 'adjustment-without-effect'" in answer.out


def test_what_is_accepted_is_needless_where_no_platform_of_the_file_has_it(
    cli: Command, write: Write
) -> None:
    """A kernel of CPUs asks for use_ep, none of TPUs does; neither needs the other acceptance."""
    accepted = "{assumption-without-effect: none on TPUs, redundant-clause: none anywhere}"
    text = f"- {{set: {{use_ep: true}}, accepted: {accepted}}}"
    text = f"platform: [cpu, tpu]\noracles:\n  int8:\n    assume:\n      {text}\n"
    answer = cli("verify", write("mine.yaml", text), "--format", "json")
    found = [(one["code"], one["message"].partition(" ")[0]) for one in answer.json["findings"]]
    assert found == [("needless-acceptance", "redundant-clause")]


def test_what_an_overlay_makes_unreachable_is_a_warning(cli: Command, write: Write) -> None:
    text = "platform: cpu\noracles:\n  unquantized:\n    adjust:\n      - {withdraw: [CPU]}\n"
    path = write("mine.yaml", text)
    answer = cli("verify", path, "--format", "json")
    found = {
        (one["code"], Path(one["file"]).name, one["severity"]) for one in answer.json["findings"]
    }
    assert ("unreachable-backend", "unquantized.yaml", "warning") in found
    assert answer.code == 0
    assert cli("verify", path, "--warnings-as-errors").code == 1
