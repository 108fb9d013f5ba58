"""What the README and the documents show comes out."""

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


@pytest.mark.parametrize("document", ["vllm.md", "transformers.md"])
def test_kernels_in_logs_stand_where_the_logs_say(document: str) -> None:
    text = " ".join((ROOT / "docs" / document).read_text(encoding="utf-8").split())
    places = re.findall(r"/ (\w+), because first in the order, [^(]*\((\S+\.yaml):(\d+)\)", text)
    assert places
    for kernel, file, line in places:
        folder = "rules/overlays" if (ROOT / "rules/overlays" / file).is_file() else "rules"
        lines = (ROOT / folder / file).read_text(encoding="utf-8").splitlines()
        assert lines[int(line) - 1].startswith(f"  {kernel}:"), f"{document}: {file}:{line}"
