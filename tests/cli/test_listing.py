"""detect, facts, list and schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_rules.json_schemas import schemas
from moe_rules.language.reading import vocabulary
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import load_machine, named_machines
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.table_names import PLATFORMS
from tests.cli.conftest import Command


def test_detect_names_every_fact_and_how_it_is_known(cli: Command) -> None:
    answer = cli("detect")
    found = {row["fact"]: row for row in cli("detect", "--format", "json").json["findings"]}
    assert {"device", "flashinfer", "triton_kernels"} <= set(found)
    for name, finding in found.items():
        assert name in answer.out
        assert finding["how"] in answer.out


def test_a_recorded_machine_decides_the_same(cli: Command, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "machine.yaml"
    assert str(file) in cli("detect", "--output", file).err
    assert load_machine(file).platform["device"]
    words = ["select", "--model", model, "--format", "json"]
    here, recorded = cli(*words), cli(*words, "--machine", file)
    assert here.code == recorded.code
    assert here.json["kernel"] == recorded.json["kernel"]
    assert here.json["facts"] == recorded.json["facts"]


def test_detect_cannot_write_there(cli: Command, tmp_path: Path) -> None:
    answer = cli("detect", "--output", tmp_path / "no" / "machine.yaml")
    assert answer.code == 2
    assert "No such file or directory" in answer.err


def test_facts_has_the_whole_vocabulary(cli: Command) -> None:
    listed = {row["name"]: row for row in cli("facts", "--format", "json").json}
    assert set(listed) == {*FACTS, *vocabulary().derived}
    text = cli("facts").out
    for name, row in listed.items():
        assert name in text
        assert row["meaning"] in text
        assert row["domain"] in text


def test_facts_of_a_group(cli: Command) -> None:
    names = [row["name"] for row in cli("facts", "--group", "derived", "--format", "json").json]
    assert names == list(vocabulary().derived)
    answer = cli("facts", "--group", "layr")
    assert answer.code == 2
    assert "did you mean 'layer'?" in answer.err


def test_facts_by_name(cli: Command) -> None:
    rows = cli("facts", "ep_size", "has_bias", "--format", "json").json
    assert [row["name"] for row in rows] == ["ep_size", "has_bias"]
    assert cli("facts", "has_bias").out.startswith("layer\n  has_bias  bool  ")
    answer = cli("facts", "has_bais")
    assert answer.code == 2
    assert "there is no fact 'has_bais'; did you mean 'has_bias'? (moe-rules facts " in answer.err
    assert "there is no fact 'has_bias' in group request " in (
        cli("facts", "has_bias", "--group", "request").err
    )


def test_list_oracles_of_every_platform(cli: Command) -> None:
    rows = cli("list", "--format", "json").json
    assert {row["platform"] for row in rows} == set(PLATFORMS)
    cuda = {row["oracle"]: row["priority"] for row in rows if row["platform"] == "cuda"}
    rules = load_platform("cuda")
    assert cuda == {name: list(oracle.priority) for name, oracle in rules.oracles.items()}


@pytest.mark.parametrize("where", [("--platform", "cuda"), ("--machine", "h100")])
def test_list_takes_a_platform_or_a_machine(cli: Command, where: tuple[str, str]) -> None:
    words = [*where, "--oracle", "unquantized", "--format", "json"]
    rows = cli("list", "backends", *words).json
    assert {row["platform"] for row in rows} == {"cuda"}
    assert {"TRITON", "MOONEP"} <= {row["backend"] for row in rows}
    requests = cli("list", "requests", *words).json
    assert {"triton", "flashinfer_trtllm"} <= {row["moe_backend"] for row in requests}


def test_list_kernels_says_who_has_the_class(cli: Command) -> None:
    rows = cli("list", "kernels", "--platform", "cuda", "--format", "json").json
    classes = {row["kernel"]: row["class"] for row in rows}
    assert classes["TritonExperts"] == "moe_kernels"
    assert "vllm" in classes["MarlinExperts"]


def test_list_machines(cli: Command) -> None:
    rows = cli("list", "machines", "--format", "json").json
    assert [row["machine"] for row in rows] == list(named_machines())
    assert all(load_machine(alias) for row in rows for alias in row["aliases"])
    rocm = cli("list", "machines", "--platform", "rocm").out
    assert "mi300x" in rocm
    assert "h100" not in rocm
    one = cli("list", "machines", "--machine", "Hopper", "--format", "json").json
    assert [row["machine"] for row in one] == ["h100"]
    assert cli("list", "machines", "--machine", "h10").code == 2


def test_list_wrong_words(cli: Command) -> None:
    oracle = cli("list", "--oracle", "fp9")
    assert oracle.code == 2
    assert "did you mean 'fp8'?" in oracle.err
    assert cli("list", "backends", "--platform", "cudda").code == 2


def test_schema_prints_one_or_all(cli: Command) -> None:
    assert cli("schema").json == schemas()
    assert cli("schema", "platform").json == schemas()["platform.schema.json"]
    answer = cli("schema", "plattform")
    assert answer.code == 2
    assert "did you mean 'platform'?" in answer.err


def test_schema_writes_files(cli: Command, tmp_path: Path) -> None:
    answer = cli("schema", "--write", tmp_path / "schemas")
    assert (answer.code, answer.out) == (0, "")
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "schemas").iterdir()}
    assert written == schemas()
    cli("schema", "machines", "--write", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["machines.schema.json"]
