"""The GitHub Action: its summary says what a pull request decides otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.files.yaml_source import read_yaml

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "action" / "summary.py"
RULE = """\
platform: cuda
oracles:
  unquantized:
    adjust:
      - {when: {compute_capability: "10.0"}, first: [TRITON], because: faster}
"""


def git(*words: str, at: Path) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    done = subprocess.run(
        ["git", *name, *words], cwd=at, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(at: Path, **files: str) -> str:
    for name, text in files.items():
        path = at / name.replace("__", "/").replace("_yaml", ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git("add", "-A", at=at)
    git("commit", "-m", "a change", at=at)
    return git("rev-parse", "HEAD", at=at)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One that has no rules yet, in its first commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git("init", "--quiet", at=folder)
    commit(folder, readme="nothing")
    return folder


Act = Callable[..., tuple[int, str, str]]


@pytest.fixture
def act(tmp_path: Path) -> Act:
    """Run the script in a repository: exit code, summary, standard error."""

    def run(at: Path, event: object, **more: str) -> tuple[int, str, str]:
        (tmp_path / "event.json").write_text(json.dumps(event))
        summary = tmp_path / "summary.md"
        summary.write_text("")
        environ = {
            **os.environ,
            "RULES": "mine",
            "ARGUMENTS": "--platform cuda --oracle unquantized",
            "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
            "GITHUB_STEP_SUMMARY": str(summary),
            **more,
        }
        done = subprocess.run(
            [sys.executable, SCRIPT], cwd=at, env=environ, capture_output=True, text=True
        )
        return done.returncode, summary.read_text(), done.stderr

    return run


def test_a_new_overlay_is_compared_with_the_packaged_rules(repository: Path, act: Act) -> None:
    base = git("rev-parse", "HEAD", at=repository)
    commit(repository, mine__cuda_yaml=RULE)
    code, summary, _ = act(repository, {"pull_request": {"base": {"sha": base}}})
    assert code == 0
    assert "- **unquantized on cuda**: FLASHINFER_CUTLASS" in summary
    assert "TRITON / TritonExperts" in summary


def test_a_change_of_an_overlay_is_compared_with_the_base(repository: Path, act: Act) -> None:
    base = commit(repository, mine__cuda_yaml=RULE)
    commit(repository, mine__cuda_yaml=RULE.replace("first", "last"))
    code, summary, _ = act(repository, {"before": base}, FAIL_ON_DIFFERENCE="true")
    assert code == 1
    assert "TRITON / TritonExperts → FLASHINFER_" in summary


def test_what_decides_alike_is_said_so(repository: Path, act: Act) -> None:
    base = commit(repository, mine__cuda_yaml=RULE)
    commit(repository, mine__cuda_yaml=RULE.replace("faster", "measured"))
    code, summary, _ = act(repository, {"before": base}, FAIL_ON_DIFFERENCE="true")
    assert code == 0
    assert "decide alike everywhere" in summary


def test_a_shallow_checkout_fetches_its_base(repository: Path, tmp_path: Path, act: Act) -> None:
    base = commit(repository, mine__cuda_yaml=RULE)
    commit(repository, mine__cuda_yaml=RULE.replace("first", "last"))
    git("config", "uploadpack.allowAnySHA1InWant", "true", at=repository)
    git("clone", "--quiet", "--depth=1", f"file://{repository}", "shallow", at=tmp_path)
    code, summary, error = act(tmp_path / "shallow", {"before": base})
    assert code == 0, error
    assert "TRITON / TritonExperts → FLASHINFER_" in summary


def test_what_cannot_be_compared_is_an_error(repository: Path, act: Act) -> None:
    code, summary, error = act(repository, {"before": "0" * 40})
    assert (code, summary) == (2, "")
    assert "give the input base" in error
    base = commit(repository, mine__cuda_yaml=RULE.replace("first", "frist"))
    code, summary, error = act(repository, {}, BASE=base)
    assert (code, summary) == (2, "")
    assert "unknown key 'frist'" in error


def test_the_action_gives_the_script_what_it_reads() -> None:
    action = read_yaml(ROOT / "action.yml").data
    step = action["runs"]["steps"][-1]
    assert f"/{SCRIPT.relative_to(ROOT)}" in step["run"]
    inputs = {f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
    assert set(step["env"].values()) == inputs
    script = SCRIPT.read_text()
    assert all(f'"{name}"' in script for name in step["env"])
