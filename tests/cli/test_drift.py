"""drift: which release is compared with which, and how the answer is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_rules.drift import stored
from tests.cli.conftest import Command

PACKAGE = "vllm/model_executor/layers/fused_moe"
ORACLE = f"{PACKAGE}/oracle/w4a8.py"
KERNELS = f"{PACKAGE}/modular_kernel.py"
FILES = {
    "vllm/__init__.py": "",
    "vllm/_version.py": "version = '0.99.0'",
    "vllm/model_executor/__init__.py": "",
    "vllm/model_executor/layers/__init__.py": "",
    f"{PACKAGE}/__init__.py": "",
    f"{PACKAGE}/oracle/__init__.py": "",
    KERNELS: """
class FusedMoEExperts: pass
class CutlassExpertsW4A8Fp8(FusedMoEExperts):
    @staticmethod
    def _supports_current_device(): return True
""",
    ORACLE: """
from ..modular_kernel import CutlassExpertsW4A8Fp8
def backend_to_kernel_cls(backend): return [CutlassExpertsW4A8Fp8]
def select_w4a8_moe_backend(config): return backend_to_kernel_cls("VLLM_CUTLASS")
""",
}
"""A stand-in for vLLM: one oracle and its kernel, under vLLM's names."""


def write(folder: Path, **changed: str) -> Path:
    for file, text in FILES.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed.get(path.stem, text))
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """With another device, and an oracle that asks more."""
    return write(
        tmp_path / "other",
        _version="version = '0.99.1'",
        modular_kernel=FILES[KERNELS].replace("True", "False"),
        w4a8=FILES[ORACLE].replace("(config):", "(config, key):"),
    )


def test_alike_is_said_to_be_so(cli: Command, one: Path) -> None:
    answer = cli("drift", one, "--from", one)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (
        "vllm 0.99.0 -> 0.99.0: of 4 definitions that the tables say again, none differs\n"
    )


def test_what_differs_is_said_with_the_lines_of_source_and_rules(
    cli: Command, one: Path, other: Path
) -> None:
    answer = cli("drift", other, "--from", one)
    assert answer.code == 1
    assert f"changed   select_w4a8_moe_backend  ({ORACLE}:4)" in answer.out
    assert f"CutlassExpertsW4A8Fp8._supports_current_device  ({KERNELS}:5)" in answer.out
    assert "oracle w4a8\n  said again in: rules/cuda/w4a8.yaml:" in answer.out
    assert "kernel CutlassExpertsW4A8Fp8\n  said again in: rules/cuda/kernels.yaml:" in answer.out
    found = cli("drift", other, "--from", one, "--format", "json").json
    assert (found["from"], found["to"]) == ("0.99.0", "0.99.1")
    assert [change["parts"] for change in found["changes"]] == [
        ["kernels.CutlassExpertsW4A8Fp8"],
        ["oracles.w4a8"],
    ]
    for change in found["changes"]:
        assert Path(other, change["file"]).read_text().splitlines()[change["line"] - 1]
        for rule in change["rules"]:
            file, line = rule.rsplit(":", 1)
            named = change["parts"][0].split(".")[1]
            assert named in Path(file).read_text().splitlines()[int(line) - 1]


def test_annotations_stand_at_lines_of_rules(cli: Command, one: Path, other: Path) -> None:
    lines = cli("drift", other, "--from", one, "--format", "github").out.splitlines()
    assert all(line.startswith("::warning file=rules/") for line in lines[:2])
    assert len(lines) == 3


def test_without_a_release_it_is_the_latest(cli: Command, one: Path) -> None:
    latest = stored.releases(stored.folder_of())[-1]
    answer = cli("drift", one, "--format", "json")
    assert answer.code == 1
    assert answer.json["from"] == latest
    kinds = {change["kind"] for change in answer.json["changes"]}
    assert kinds == {"changed", "vanished", "moved", "appeared"} & kinds
    assert "vanished" in kinds


def test_fingerprints_are_written_beside_the_rules(
    cli: Command, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "folder_of", lambda: tmp_path / "fingerprints")
    answer = cli("drift", one, "--write")
    assert (answer.code, answer.out.strip()) == (0, str(tmp_path / "fingerprints/0.99.0.json"))
    assert json.loads(Path(answer.out.strip()).read_text())["release"] == "0.99.0"
    assert cli("drift", one, "--from", "0.99").code == 0


def test_what_is_wrong_is_said(cli: Command, one: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([tmp_path / "nothing.whl"], "there is no such file or folder"),
        ([tmp_path / "empty"], "there is no package vllm"),
        ([Path(__file__)], "a wheel was expected"),
        ([one, "--from", "0.1"], "there are no fingerprints of 0.1 (of 0."),
    ):
        answer = cli("drift", *words)
        assert (answer.code, answer.out) == (2, "")
        assert message in answer.err
