"""matrix: every cell is what select would say, in each form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_rules.cli.commands.matrix import MACHINES
from moe_rules.cli.matrix import WIDEST
from moe_rules.cli.schemes import SCHEMES
from moe_rules.machines.machine import load_machine
from tests.cli.conftest import MODELS, Command


def test_a_cell_for_every_machine_and_scheme(cli: Command, model: Path) -> None:
    answer = cli("matrix", "--model", model, "--format", "json")
    assert answer.code == 0
    assert answer.json["machines"] == list(MACHINES)
    cells = {(cell["scheme"], cell["machine"]): cell for cell in answer.json["cells"]}
    assert set(cells) == {(scheme, machine) for scheme in SCHEMES for machine in MACHINES}
    for cell in cells.values():
        assert cell["because"]
        assert (cell["backend"] is not None) == (cell["outcome"] == "selected")
    asked = {cell["oracle"] for cell in cells.values()} - {None}
    assert asked >= {"unquantized", "fp8", "int8", "int_wna16", "mxfp8", "nvfp4", "w4a8"}


@pytest.mark.parametrize("machine", ["h100", "mi300x", "x86-amx"])
@pytest.mark.parametrize(
    ("scheme", "file"),
    [
        ("unquantized", "Qwen3-30B-A3B.json"),
        ("fp8-block", "Qwen3-30B-A3B-FP8.json"),
        ("int4-gptq", "Qwen3-30B-A3B-GPTQ-Int4.json"),
    ],
)
def test_a_cell_is_what_select_says_of_such_a_checkpoint(
    cli: Command, machine: str, scheme: str, file: str
) -> None:
    words = ["--machine", machine, "--tp", "2", "--format", "json"]
    # The own format of the checkpoint does not matter.
    for published in ("Qwen3-30B-A3B.json", "Qwen3-30B-A3B-FP8.json"):
        matrix = cli("matrix", "--model", MODELS / published, "--scheme", scheme, *words).json
        selected = cli("select", "--model", MODELS / file, *words).json
        (cell,) = matrix["cells"]
        for name in ("oracle", "backend", "kernel"):
            assert cell[name] == selected[name]


def test_options_reach_every_cell(cli: Command, model: Path) -> None:
    words = ["matrix", "--model", model, "--machine", "b200", "--scheme", "unquantized"]
    assert "FLASHINFER_TRTLLM" in cli(*words).out
    assert "FLASHINFER_TRTLLM" not in cli(*words, "--software", "bare").out
    assert "FLASHINFER_CUTLASS" in cli(*words, "--moe-backend", "flashinfer_cutlass").out
    assert "tp 8, ep" in cli(*words, "--tp", 8, "--ep").out
    lora = cli(*words, "--set", "is_lora_enabled=true", "--format", "json").json
    assert lora["cells"][0]["kernel"] == "TrtLlmBf16LoRAExperts"


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_every_form_has_machines_schemes_and_kernels(cli: Command, model: Path, form: str) -> None:
    words = [
        "--machine",
        "h100",
        "--machine",
        "tpu",
        "--scheme",
        "unquantized",
        "--scheme",
        "mxfp8",
    ]
    out = cli("matrix", "--model", model, *words, "--format", form).out
    for word in ("Qwen3-30B-A3B", "h100", "tpu", "unquantized", "mxfp8", "TritonExperts"):
        assert word in out


def test_text_fits_the_page_and_says_what_is_no_kernel(cli: Command, model: Path) -> None:
    out = cli("matrix", "--model", model).out
    assert max(map(len, out.splitlines())) <= WIDEST
    headings = [line.split() for line in out.splitlines() if line.startswith("  ")]
    assert [word for line in headings for word in line if word in MACHINES] == list(MACHINES)
    assert out.count("\nnvfp4 ") > 1
    assert "none serves: no backend" in out
    assert "no oracle:" not in out


def test_markdown_rows_have_a_cell_for_every_machine(cli: Command, model: Path) -> None:
    out = cli("matrix", "--model", model, "--format", "markdown").out
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(SCHEMES)
    assert {row.count("|") for row in rows} == {len(MACHINES) + 2}


def test_refusals_and_wrong_words(cli: Command, model: Path) -> None:
    words = ["matrix", "--model", model]
    refused = cli(*words, "--machine", "xpu", "--scheme", "nvfp4", "--format", "json").json
    assert refused["cells"][0]["outcome"] == "refused"
    assert "not supported on xpu" in refused["cells"][0]["because"]
    scheme = cli(*words, "--scheme", "fp8-blok")
    assert scheme.code == 2
    assert "did you mean 'fp8-block'?" in scheme.err
    assert cli(*words, "--machine", "h10").code == 2
    assert cli("matrix").code == 2


def test_schemes_are_plain_json() -> None:
    assert json.loads(json.dumps(SCHEMES)) == SCHEMES
    assert all(load_machine(name) for name in MACHINES)
