"""What the README shows comes out."""

from __future__ import annotations

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
    assert capsys.readouterr().out.splitlines() == printed
