"""What lies in the folder of an overlay: every command reads it alike."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.language.ruleset import overlay_paths
from tests.cli.conftest import Command

Write = Callable[[str, str | bytes], Path]

OVERLAY = "platform: xpu\noracles: {unquantized: {adjust: [{first: [TRITON]}]}}\n"
MIXTRAL = Path(__file__).parents[2] / "examples" / "models" / "Mixtral-8x7B.json"
SELECT = ["select", "--model", MIXTRAL, "--machine", "h100", "--rules"]
EXAMPLES = "examples: [{name: a, oracle: fp8, expect: {how: auto}}]"
MACHINE = 'name: x\nplatform: {device: cuda, compute_capability: "9.0"}\n'


@pytest.mark.parametrize("command", ["check", "select", "diff", "verify"])
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.yaml", MACHINE, None),
        (".hidden/x.yaml", "repos: []", None),
        ("own.yaml", EXAMPLES, "in an overlay they are called *.test.yaml"),
        ("own.yaml", "impossible: []\nusual: {}\n", "its keys are those of worlds"),
        ("own.yaml", "platfrm: cuda", "did you mean 'platform'"),
    ],
)
def test_every_command_reads_a_folder_alike(
    cli: Command, write: Write, name: str, text: str, message: str | None, command: str
) -> None:
    folder = write("mine/xpu.yaml", OVERLAY).parent
    write(f"mine/{name}", text)
    words: dict[str, list[object]] = {
        "check": ["check", folder],
        "select": [*SELECT, folder],
        "diff": ["diff", folder, "--oracle", "int8", "--machine", "h100"],
        "verify": ["verify", folder],
    }
    answer = cli(*words[command])
    if message is None:
        assert answer.code == 0, answer.err
    else:
        assert message in answer.out + answer.err
        assert answer.code in (1, 2)


def test_a_machine_that_is_named_as_rules(cli: Command, write: Write) -> None:
    answer = cli(*SELECT, write("x.yaml", MACHINE))
    assert answer.code == 2
    assert "x.yaml" in answer.err


@pytest.mark.parametrize("file", ["notes.txt", "words.yaml/notes.txt"])
def test_a_folder_without_rules(cli: Command, write: Write, file: str) -> None:
    folder = write("mine/notes.txt", "nothing").parent
    write(f"mine/{file}", "nothing")
    for words in (["diff", folder], [*SELECT, folder]):
        answer = cli(*words)
        assert answer.code == 2
        assert f"the folder {folder} has no rules" in answer.err


@pytest.mark.parametrize("name", ["other.yaml", "words.yaml", "models/registry.yaml"])
def test_a_link_that_leads_nowhere_is_not_passed_over(
    cli: Command, write: Write, name: str
) -> None:
    folder = write("mine/xpu.yaml", OVERLAY).parent
    link = folder / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("nowhere.yaml")
    answer = cli(*SELECT, folder)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"moe-rules: error: {link}: ")


@pytest.mark.parametrize("command", ["select", "check"])
def test_a_folder_that_cannot_be_read_is_not_passed_over(
    cli: Command, write: Write, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = write("mine/xpu.yaml", OVERLAY).parent
    closed = write("mine/more/cuda.yaml", "platform: cuda\n").parent
    scandir = os.scandir

    def denied(path: str) -> object:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    answer = cli(*({"select": SELECT, "check": ["check"]}[command]), folder)
    assert (answer.code, answer.out) == (2, "")
    assert f"{closed}: Permission denied" in answer.err


def test_an_empty_word_is_not_the_current_folder(cli: Command) -> None:
    answer = cli(*SELECT, "")
    assert (answer.code, answer.out) == (2, "")
    assert "there is no overlay ''" in answer.err


def test_one_overlay_is_no_list_of_them() -> None:
    for one in ("corrected", Path("mine")):
        with pytest.raises(TypeError, match=rf"overlays come in a list, as \['{one}'\]"):
            overlay_paths(one)  # type: ignore[arg-type]
