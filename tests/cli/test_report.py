"""report: every cell is what explain says of the same deployment, and names stay names."""

from __future__ import annotations

import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from moe_rules.cli.render import progress
from moe_rules.files.packaged import packaged_rules
from moe_rules.json_schemas import schema_for
from tests.cli.conftest import MODELS, Command
from tests.cli.report_reader import Reader, data_of

SWITCHES = ["--tp", "1", "--tp", "8", "--dp", "1", "--dp", "8"]
SWITCHES += ["--all2all", "allgather_reducescatter", "--all2all", "deepep_low_latency"]


def explained(
    cli: Command, data: dict[str, Any], cell: dict[str, Any], deployment: int, request: str
) -> Any:
    """What explain says of a state of a report, or the text of its error."""
    switches = data["deployments"][deployment]
    scheme = data["schemes"][cell["scheme"]]
    words = ["--model", data["models"][cell["model"]]["argument"]]
    words += ["--machine", data["machines"][cell["machine"]]["name"]]
    words += [] if scheme is None else ["--scheme", scheme]
    words += ["--tp", switches["tp"], "--dp", switches["dp"]]
    words += ["--ep"] if switches["ep"] else []
    words += ["--all2all", switches["all2all"]] if switches["all2all"] else []
    words += [] if request == "auto" else ["--moe-backend", request]
    answer = cli("explain", *words, *data["arguments"], "--format", "json")
    return json.loads(without_folders(answer.out)) if answer.out else answer.err


def without_folders(text: str) -> str:
    """With places in the packaged rules as a report has them."""
    return text.replace(f"{packaged_rules()}/", "rules/")


def check(cli: Command, data: dict[str, Any], every: int = 1) -> int:
    """Compare every so-manieth state of a report with explain; how many were."""
    states = [
        (cell, deployment, request)
        for cell in data["cells"]
        for request in cell["after"]
        for deployment in range(len(data["deployments"]))
    ][::every]
    reader = Reader(data)
    for cell, deployment, request in states:
        said = explained(cli, data, cell, deployment, request)
        found = reader.outcome(cell, deployment, request)
        if isinstance(said, str):
            assert isinstance(found, str)
            assert found in said
        else:
            assert found == said, (cell, deployment, request)
    return len(states)


def test_every_state_of_every_cell_is_what_explain_says(cli: Command, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    words = ["--model", MODELS / "Qwen3-30B-A3B-FP8.json", "--model", MODELS / "gpt-oss-120b.json"]
    words += [*SWITCHES, *(w for n in ("h100", "mi350x", "arm") for w in ("--machine", n))]
    words += [w for name in ("fp8-block", "nvfp4") for w in ("--scheme", name)]
    assert cli("report", *words, "--out", page).code == 0
    assert check(cli, data_of(page), every=3) > 150


def test_the_own_format_and_kinds_of_layers(cli: Command, tmp_path: Path) -> None:
    config = json.loads((MODELS / "Qwen3-30B-A3B-FP8.json").read_text())
    block = config["quantization_config"]
    block["modules_to_not_convert"] = ["model.layers.3.mlp.experts"]
    model = tmp_path / "mixed.json"
    model.write_text(json.dumps(config))
    page = tmp_path / "report.html"
    words = ["--model", model, "--machine", "b200", "--tp", "2", "--out", page]
    assert cli("report", *words).code == 0
    data = data_of(page)
    own = next(cell for cell in data["cells"] if data["schemes"][cell["scheme"]] is None)
    assert len(Reader(data).outcome(own, 0, "auto")) == 2
    assert check(cli, {**data, "cells": [own]}) > 5


def test_facts_stated_and_rules_of_ones_own(cli: Command, tmp_path: Path, model: Path) -> None:
    rules = tmp_path / "mine"
    rules.mkdir()
    (rules / "cuda.yaml").write_text(
        "platform: cuda\n"
        "oracles:\n"
        "  unquantized:\n"
        "    adjust:\n"
        '      - {when: {num_tokens: "<=64"}, first: [BATCHED_TRITON], because: small calls}\n'
        "      - {first: [TRITON], because: ours}\n"
    )
    page = tmp_path / "report.html"
    words = ["--model", model, "--machine", "b200", "--scheme", "unquantized", "--dp", 1]
    words += ["--set", "is_lora_enabled=true", "--rules", rules, "--out", page]
    assert cli("report", *words, "--against", "packaged").code == 0
    # No place says where the computer that made the page has its files.
    shown = page.read_text("utf-8").replace(f'"{rules}"', "what the user said")
    assert not re.findall(f"{tmp_path}|{packaged_rules()}|{Path.cwd()}/rules", shown)
    data = data_of(page)
    assert "mine/cuda.yaml" in data["strings"]
    assert "rules/cuda/unquantized.yaml" in data["in_repository"]
    assert "mine/cuda.yaml" not in data["in_repository"]
    places = {"mine/cuda.yaml": str(rules / "cuda.yaml")}
    data["strings"] = [places.get(text, text) for text in data["strings"]]
    data["arguments"] += data["after"]["arguments"]
    assert check(cli, data) > 5
    (cell,) = data["cells"]
    before = Reader(data).outcome(cell, 0, "auto", "before")
    assert before["backend"] != "TRITON"
    said = cli(
        "explain", "--model", model, "--machine", "b200", "--scheme", "unquantized",
        "--set", "is_lora_enabled=true", "--format", "json",
    ).out  # fmt: skip
    assert before == json.loads(without_folders(said))


def test_places_of_a_revision_begin_with_it(
    cli: Command, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/cuda.yaml").write_text(
        "platform: cuda\noracles:\n  unquantized:\n    adjust:\n"
        "      - {first: [TRITON], because: ours}\n"
    )
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    for words in (["init"], ["add", "mine"], [*who, "commit", "-m", "ours"]):
        subprocess.run(["git", *words], check=True, capture_output=True)
    page = tmp_path / "report.html"
    words = ["--model", model, "--machine", "b200", "--scheme", "unquantized", "--tp", 1, "--dp", 1]
    words += ["--rules", "mine", "--against", "HEAD:mine"]
    assert cli("report", *words, "--out", page).code == 0
    data = data_of(page)
    assert {"mine/cuda.yaml", "HEAD:mine/cuda.yaml"} <= set(data["strings"])
    assert "HEAD:mine/cuda.yaml" not in data["in_repository"]
    assert "mine/cuda.yaml" in data["in_repository"]
    assert data["before"]["arguments"] is None


def test_a_request_says_where_it_is(
    cli: Command, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "mine"
    rules.mkdir()
    (rules / "cuda.yaml").write_text("platform: cuda\nrequested: {unquantized: triton}\n")
    words = ["--model", model, "--machine", "h100", "--scheme", "unquantized", "--tp", 1, "--dp", 1]
    page = tmp_path / "report.html"
    assert cli("report", *words, "--rules", rules, "--out", page).code == 0
    assert '"at":"mine/cuda.yaml:2:' in page.read_text("utf-8")
    monkeypatch.setenv("MOE_RULES_BACKEND", "unquantized=triton")
    assert cli("report", *words, "--out", page).code == 0
    assert '"at":"MOE_RULES_BACKEND"' in page.read_text("utf-8")
    assert "MOE_RULES_BACKEND" not in data_of(page)["in_repository"]


def test_rules_that_decide_alike_are_said_to(cli: Command, tmp_path: Path, model: Path) -> None:
    page = tmp_path / "report.html"
    words = ["--model", model, "--machine", "h100", "--scheme", "unquantized", "--out", page]
    assert cli("report", *words, "--against", "packaged").code == 0
    assert all(cell["before"] == cell["after"] for cell in data_of(page)["cells"])


def test_least_changes_where_nothing_serves(cli: Command, tmp_path: Path, model: Path) -> None:
    page = tmp_path / "report.html"
    words = ["--model", model, "--machine", "arm", "--scheme", "int4-gptq", "--tp", 1, "--dp", 1]
    assert cli("report", *words, "--out", page).code == 0
    data = data_of(page)
    _, _, _, more = data["decisions"][0]
    lines = [data["strings"][line] for line in more["nearest"]]
    assert lines
    said = cli("explain", *words[:6], "--format", "text").out
    assert all(line in said for line in lines)


def test_that_no_change_helps_is_said(cli: Command, tmp_path: Path, model: Path) -> None:
    page = tmp_path / "report.html"
    words = ["--model", model, "--machine", "tpu", "--scheme", "int4-gptq", "--tp", 1, "--dp", 1]
    assert cli("report", *words, "--out", page).code == 0
    line = "nothing on tpu makes a backend of this oracle serve"
    assert line in data_of(page)["strings"]
    assert line in cli("explain", *words[:6]).out


def test_data_is_what_its_schema_says(cli: Command, tmp_path: Path, model: Path) -> None:
    page = tmp_path / "report.html"
    words = ["--model", model, "--machine", "b200", "--machine", "xpu", "--out", page]
    assert cli("report", *words, *SWITCHES).code == 0
    jsonschema.validate(data_of(page), schema_for("report"))


def test_names_of_users_cannot_become_markup(cli: Command, tmp_path: Path, model: Path) -> None:
    evil = tmp_path / "a<b>&'\"<!--<script>alert(1)<\u2044script>.json"
    evil.write_text(model.read_text())
    page = tmp_path / "report.html"
    words = ["--machine", "h100", "--scheme", "unquantized", "--tp", 1, "--dp", 1, "--out", page]
    assert cli("report", "--model", evil, *words).code == 0
    text = page.read_text("utf-8")
    assert "a<b>" not in text
    assert "<!--" not in text[100:]
    assert data_of(page)["models"][0]["name"] == evil.name.removesuffix(".json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--machine", "h10"], "h100"),
        (["--scheme", "fp8-blok"], "did you mean 'fp8-block'?"),
        (["--repository", "javascript:alert(1)"], "https://"),
        (["--repository", "https://[::1"], "https://"),
        (["--repository", "https://"], "https://"),
        (["--against", "nowhere"], "nowhere"),
        (["--all2all", "deepep"], "deepep"),
    ],
)
def test_wrong_words(
    cli: Command, tmp_path: Path, model: Path, words: list[str], said: str
) -> None:
    answer = cli("report", "--model", model, "--out", tmp_path / "r.html", *words)
    assert answer.code == 2
    assert said in answer.err


def test_dense_models_and_folders_that_are_not_there(cli: Command, tmp_path: Path) -> None:
    dense = tmp_path / "dense.json"
    dense.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    answer = cli("report", "--model", dense, "--out", tmp_path / "r.html")
    assert "no MoE layers" in answer.out
    words = ["--machine", "h100", "--scheme", "unquantized", "--tp", 1, "--dp", 1]
    for out, said in (
        (tmp_path / "missing" / "r.html", "there is no folder"),
        (tmp_path, "that is a folder"),
    ):
        # Said before a model is read: what takes long is not done in vain.
        answer = cli("report", "--model", "nothing.json", *words, "--out", out)
        assert answer.code == 2
        assert said in answer.err


def test_it_says_what_it_wrote_and_of_which_release(
    cli: Command, tmp_path: Path, model: Path
) -> None:
    page = tmp_path / "r.html"
    words = ["--model", model, "--machine", "h100", "--scheme", "unquantized", "--tp", 1]
    words += ["--dp", 1, "--out", page]
    for options, name in (([], "packaged (vLLM 0.33)"), (["--release", "0.32.0"], "vLLM 0.32")):
        assert cli("report", *words, *options).out == f"wrote {page}\n"
        assert data_of(page)["after"]["name"] == name


def test_switches_are_every_combination_that_can_be(
    cli: Command, tmp_path: Path, model: Path
) -> None:
    page = tmp_path / "report.html"
    words = ["--model", model, "--machine", "h100", "--scheme", "unquantized", "--out", page]
    assert cli("report", *words, *SWITCHES).code == 0
    deployments = data_of(page)["deployments"]
    assert len(deployments) == len({json.dumps(one) for one in deployments})
    sizes = set(itertools.product((1, 8), (1, 8)))
    assert {(one["tp"], one["dp"]) for one in deployments} == sizes
    for one in deployments:
        assert (one["all2all"] is not None) == (one["ep"] and one["dp"] > 1)
        assert not (one["ep"] and one["tp"] * one["dp"] == 1)


def test_a_bar_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda answer=terminal: answer)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        with progress("deciding", 2) as advance:
            advance()
            advance()
        assert ("deciding" in stream.getvalue()) == terminal
