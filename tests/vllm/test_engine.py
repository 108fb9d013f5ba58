"""A real engine decides by the tables: vLLM's build for CPUs, generating on this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from moe_rules.conformance.run import load_comparer, run_file
from tests.vllm.engine import write_model
from tests.vllm.processes import python

Generated = tuple[list[list[int]], str]
OURS = "moe_rules.integrations.vllm.experts"


def generate(model: Path, dtype: str = "bfloat16", **environ: str) -> Generated:
    """The tokens of an engine, and its log."""
    done = python("-m", "tests.vllm.engine", str(model), dtype, **environ)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found["tokens"], done.stdout + done.stderr


def running(log: str) -> str:
    """The class of the experts that vLLM says it runs."""
    (name,) = set(re.findall(r"Using (\w+Experts) MoE backend", log))
    return name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def stock(model: Path) -> Generated:
    return generate(model)


def test_stock(stock: Generated, tmp_path: Path) -> None:
    tokens, log = stock
    assert len({token for sequence in tokens for token in sequence}) > 10
    assert "moe_rules" not in log
    write_model(tmp_path, experts=0.0)
    assert (
        generate(tmp_path)[0] != tokens
    )  # experts decide tokens, so that equal tokens say something


def test_on(model: Path, stock: Generated) -> None:
    tokens, log = generate(model, MOE_RULES_VLLM="on")
    assert tokens == stock[0]
    assert running(log) == running(stock[1])
    assert log.count("moe_rules: unquantized layer (8 experts of 128x64 silu): CPU / ") == 1
    assert "there are no tables of vLLM" not in log


def test_shadow_agrees_and_its_recording_is_read(
    model: Path, stock: Generated, tmp_path: Path
) -> None:
    record = tmp_path / "field.jsonl.gz"
    tokens, log = generate(model, MOE_RULES_VLLM="shadow", MOE_RULES_VLLM_RECORD=str(record))
    assert tokens == stock[0]
    assert log.count(", and vLLM selects the same") == 1
    assert "comes to" not in log
    result = run_file(record, frozenset(), load_comparer())
    assert result.complete
    assert result.oracles["unquantized"].decision.total == 2  # one for each layer


def test_an_overlay_changes_the_class_that_runs(
    model: Path, stock: Generated, tmp_path: Path
) -> None:
    (tmp_path / "cpu.yaml").write_text(
        "platform: cpu\n"
        "oracles: {unquantized: {backends: {CPU: {kernels: [Portable]}}}}\n"
        "kernels: {Portable: {extends: CPUUnquantizedExperts, class: CPUUnquantizedExperts}}\n"
    )
    _, log = generate(model, MOE_RULES_VLLM="on", MOE_RULES_PATH=str(tmp_path))
    assert running(log) == "CPUUnquantizedExperts"
    assert f"({tmp_path.name}/cpu.yaml:3)" in log


@pytest.fixture(scope="module")
def stock_in_float32(model: Path) -> Generated:
    return generate(model, "float32")


def test_our_kernels_run_inside(model: Path, stock_in_float32: Generated) -> None:
    """In float32: in bfloat16 other roundings come to another token where two are nearly equal."""
    tokens, log = generate(model, "float32", MOE_RULES_VLLM="on", MOE_RULES_PATH="moe_kernels")
    assert tokens == stock_in_float32[0]
    assert running(log) == f"MoeKernels{running(stock_in_float32[1])}"
    assert f"CPU / {OURS}:" in log


def test_our_kernels_run_inside_in_bfloat16(model: Path, stock: Generated) -> None:
    tokens, log = generate(model, MOE_RULES_VLLM="on", MOE_RULES_PATH="moe_kernels")
    assert [sequence[:2] for sequence in tokens] == [sequence[:2] for sequence in stock[0]]
    assert running(log) == f"MoeKernels{running(stock[1])}"


def test_our_triton_kernel_runs_inside(
    model: Path, stock_in_float32: Generated, tmp_path: Path
) -> None:
    pytest.importorskip("triton")
    (tmp_path / "cpu.yaml").write_text(
        "platform: cpu\n"
        "oracles: {unquantized: {backends: {CPU: {kernels: [Interpreted]}}}}\n"
        f"kernels: {{Interpreted: {{class: '{OURS}:TritonExperts'}}}}\n"
    )
    environ = {"MOE_RULES_VLLM": "on", "MOE_RULES_PATH": str(tmp_path), "TRITON_INTERPRET": "1"}
    tokens, log = generate(model, "float32", **environ)
    assert tokens == stock_in_float32[0]
    assert running(log) == "MoeKernelsTritonExperts"


def test_a_backend_that_cannot_serve_stops_the_engine(model: Path, tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_text(
        "platform: cpu\noracles: {unquantized: {adjust: [{withdraw: [CPU], because: not here}]}}\n"
    )
    with pytest.raises(AssertionError, match=r"CPU: taken out of the order at .*: not here"):
        generate(model, MOE_RULES_VLLM="on", MOE_RULES_PATH=str(tmp_path))
