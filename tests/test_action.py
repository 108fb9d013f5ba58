"""The GitHub Action: its summary says what a pull request decides otherwise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
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


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without moe_rules that finds what installing it needs, and asks no index."""
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text("\n".join(path for path in sys.path if "site-" in path))
    return folder / "bin" / "python"


def test_its_steps_run_as_on_a_runner(repository: Path, tmp_path: Path, python: Path) -> None:
    """Each in a bash of its own, with what GitHub sets, and inputs that were not given."""
    base = commit(repository, mine__cuda_yaml=RULE)
    commit(repository, mine__cuda_yaml=RULE.replace("first", "last"))
    (tmp_path / "event.json").write_text(json.dumps({"before": base}))
    (summary := tmp_path / "summary.md").touch()
    action = read_yaml(ROOT / "action.yml").data
    inputs = {name: one["default"] for name, one in action["inputs"].items()}
    inputs |= {"rules": "mine", "arguments": "--platform cuda --oracle unquantized"}
    runner = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_STEP_SUMMARY": str(summary),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
    }
    for step in action["runs"]["steps"]:
        if "run" not in step:
            assert step["uses"].startswith("actions/setup-python@")
            continue
        assert step["shell"] == "bash"
        (script := tmp_path / "step.sh").write_text(step["run"])
        given = {
            name: re.sub(r"\$\{\{ inputs\.(\S+) \}\}", lambda found: inputs[found[1]], value)
            for name, value in step.get("env", {}).items()
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=repository,
            env=runner | given,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "TRITON / TritonExperts → FLASHINFER_" in summary.read_text()
    (installed,) = python.parents[1].glob("lib/python*/site-packages/moe_rules")
    assert (installed / "rules").is_dir()


def test_the_action_gives_the_script_what_it_reads() -> None:
    action = read_yaml(ROOT / "action.yml").data
    step = action["runs"]["steps"][-1]
    assert f"/{SCRIPT.relative_to(ROOT)}" in step["run"]
    inputs = {f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
    assert set(step["env"].values()) == inputs
    script = SCRIPT.read_text()
    assert all(f'"{name}"' in script for name in step["env"])
