"""The hooks that other repositories take from here are commands that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from moe_rules.cli import build_parser
from moe_rules.files.yaml_source import read_yaml

HOOKS = read_yaml(Path(__file__).parents[1] / ".pre-commit-hooks.yaml").data


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_is_a_command_with_options_that_it_has(hook: dict[str, object]) -> None:
    program, *words = shlex.split(str(hook["entry"]))
    assert program == "moe-rules"
    assert str(hook["id"]) == f"moe-rules-{words[0]}"
    given = hook.get("args", [])
    assert isinstance(given, list)
    files = [] if hook.get("pass_filenames") is False else ["moe-rules/cuda.yaml"]
    assert build_parser(words).parse_args([*words, *given, *files]).command == words[0]


@pytest.mark.parametrize("name", ["verify", "diff"])
def test_a_hook_about_one_folder_runs_for_its_files_alone(name: str) -> None:
    (hook,) = (hook for hook in HOOKS if hook["id"] == f"moe-rules-{name}")
    folder = shlex.split(hook["entry"])[-1]
    assert re.search(hook["files"], f"{folder}/cuda.yaml")
    for other in (f"deploy/{folder}", "moe_rules"):
        assert not re.search(hook["files"], f"{other}/cuda.yaml")
