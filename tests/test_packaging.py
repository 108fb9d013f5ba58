"""The wheel carries rules and schemas and works from any folder, without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import moe_rules

ROOT = Path(moe_rules.__file__).parents[1]
WITHOUT_READERS = (
    "import sys; sys.modules.update(dict.fromkeys(['yaml', 'pydantic', 'jsonschema', 'regex'])); "
    "from moe_rules.cli import main; sys.exit(main(sys.argv[1:]))"
)
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = sys.modules['triton'] = None; "
    "from moe_rules.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # As pip builds it: what the build needs is known to its process, and to no other Python.
    venv.create(folder / "bare", with_pip=False)
    build = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    command = [folder / "bare/bin/python", "-c", f"import sys; sys.path += {sys.path!r}; {build}"]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(
    site: Path, cwd: Path, *arguments: str, program: str = WITHOUT_TORCH
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(site), "PATH": "", "NO_COLOR": "1", "MOE_RULES_CACHE": "off"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_holds_packages_rules_and_schemas(unpacked: Path) -> None:
    for name in (
        "moe_rules/py.typed",
        "moe_kernels/py.typed",
        "moe_rules/rules/vocabulary.yaml",
        "moe_rules/rules/cuda/fp8.yaml",
        "moe_rules/schemas/platform.schema.json",
        "moe_rules/reporting/report/index.html",
    ):
        assert (unpacked / name).is_file(), name
    assert not (unpacked / "kernels").exists()
    assert not (unpacked / "tests").exists()


def test_installed_wheel_checks_and_selects_without_torch(unpacked: Path, tmp_path: Path) -> None:
    checked = run(unpacked, tmp_path, "check")
    assert checked.returncode == 0, checked.stderr
    (tmp_path / "config.json").write_text(
        (ROOT / "examples/models/Qwen3-30B-A3B-FP8.json").read_text()
    )
    arguments = ("--model", "config.json", "--machine", "h100", "--format", "json")
    selected = run(unpacked, tmp_path, "select", *arguments)
    assert selected.returncode == 0, selected.stderr
    assert "TritonExperts" in json.dumps(json.loads(selected.stdout))
    assert str(unpacked) in selected.stdout, "rules are read from the wheel"
    options = ("--scheme", "fp8-block", "--tp", "1", "--dp", "1", "--out", "report.html")
    reported = run(unpacked, tmp_path, "report", *arguments[:4], *options)
    assert reported.returncode == 0, reported.stderr
    assert "TritonExperts" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("platform", ["h100", "mi300x", "x86"])
def test_installed_wheel_selects_without_yaml_and_pydantic(
    unpacked: Path, tmp_path: Path, platform: str
) -> None:
    model = str(ROOT / "examples/models/Mixtral-8x7B.json")
    arguments = ("select", "--model", model, "--machine", platform)
    selected = run(unpacked, tmp_path, *arguments, program=WITHOUT_READERS)
    assert selected.returncode == 0, selected.stderr


def test_an_edited_table_of_the_wheel_is_read_anew(unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(unpacked, tmp_path / "site")
    table = tmp_path / "site/moe_rules/rules/cuda/unquantized.yaml"
    table.write_text(table.read_text().replace("priority:", "prioritie:"))
    arguments = ("select", "--model", str(ROOT / "examples/models/Mixtral-8x7B.json"))
    selected = run(tmp_path / "site", tmp_path, *arguments, "--machine", "h100")
    assert selected.returncode == 2
    assert "unknown key 'prioritie'" in selected.stderr
