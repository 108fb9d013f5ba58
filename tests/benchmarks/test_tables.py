"""Published tables are made of results alone."""

import sys
from pathlib import Path

import pytest
from moe_kernels.benchmark.report import Measurement, Results

from benchmarks import tables


def write(folder: Path, scheme: str, device: str = "NVIDIA H200") -> Path:
    run = {"device": device, "date": "2026-11-28", "torch": "2", "triton": "3"}
    results = Results("ours", {**run, "seed": 1, "peers": {}})
    results.peer_kernels = {"theirs": ["HummingIndexedExperts"], "other": []}
    for routing, factor in (("uniform", 1.0), ("skewed", 9.0)):
        for tokens, times in ((1, (2.0, 3.0, 2.5)), (64, (2.0, 4.0, 9.0))):
            for name, us in zip(("ours", "theirs", "other"), times, strict=True):
                us = us if name == "ours" else us * factor
                point = (scheme, "qwen3-30b-a3b", routing, tokens, name, us)
                results.measurements.append(Measurement(*point, us, 5.0, "bytes", 1.0, 2.0, 1e-3))
    results.write(folder)
    return folder


ROW = "| int4 w4a16 | HUMMING | 1.73 | 1.50-2.00 | 2 of 2 | 1.58 | 1.25-2.00 | other, theirs |"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["tables", *map(str, words)])
    tables.main()


def test_tables_of_several_runs(tmp_path, monkeypatch, capsys) -> None:
    folders = [write(tmp_path / "a", "int4_w4a16"), write(tmp_path / "b", "fp8_tensor")]
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    out = tmp_path / "all.md"
    run(monkeypatch, *folders, "--out", out, "--note", "At commit abc.", "--readme", readme)
    assert ROW in capsys.readouterr().out.splitlines()
    # No peer is the kernel that vLLM picks for the other scheme.
    empty = "| fp8 tensor | FLASHINFER_CUTLASS |  |  | 0 of 2 | 1.58 | 1.25-2.00 | other, theirs |"
    text = readme.read_text()
    assert text.startswith(f"before\n{tables.BEGIN}\n| format |")
    assert text.endswith(f"{ROW}\n{empty}\n{tables.END}\nafter\n")
    lines = out.read_text().splitlines()
    assert "At commit abc." in lines
    assert "## int4 w4a16" in lines
    assert sum("qwen3-30b-a3b | uniform" in line for line in lines) == 4
    before = readme.read_text()
    run(monkeypatch, *folders, "--readme", readme)
    assert readme.read_text() == before


def test_runs_of_one_scheme_are_summed_up_together(tmp_path, monkeypatch, capsys) -> None:
    run(monkeypatch, *(write(tmp_path / name, "int4_w4a16") for name in "ab"))
    assert capsys.readouterr().out.splitlines()[2:] == [ROW.replace("2 of 2", "4 of 4")]


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path, monkeypatch, capsys) -> None:
    folder, missing = write(tmp_path / "a", "int4_w4a16"), tmp_path / "none" / "file.md"
    for option in ("--readme", "--out"):
        with pytest.raises(SystemExit):
            run(monkeypatch, folder, option, missing)
        assert str(missing) in capsys.readouterr().err


def test_wrong_input_is_named(tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path)
    assert "holds no results of moe-rules bench" in capsys.readouterr().err
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(SystemExit):
        run(monkeypatch, write(tmp_path / "a", "bf16"), "--readme", tmp_path / "README.md")
    assert tables.BEGIN in capsys.readouterr().err
