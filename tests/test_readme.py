"""What the README shows comes out."""

from __future__ import annotations

import re
import shlex

import pytest

from moe_rules.cli import main
from moe_rules.files.packaged import packaged_rules

ROOT = packaged_rules().parent


def test_the_first_command_prints_what_stands_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command, *printed = text.split("```console\n$ moe-rules ")[1].split("\n$ ")[0].splitlines()
    assert main(shlex.split(command)) == 0
    assert _without_lines(capsys.readouterr().out.splitlines()) == _without_lines(printed)


def _without_lines(told: list[str]) -> list[str]:
    """Rules move in their files."""
    return [re.sub(r"\.yaml:\d+", ".yaml", line) for line in told]
