"""Which files --model finds, what a model is called, and what is said of files that are none."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_rules.cli.errors import UserError
from moe_rules.cli.model_files import read_model, read_object
from tests.cli.conftest import MODELS, Command
from tests.models.fuzzing import JUNK, corpus, paths_of, spoilt

CORPUS = corpus()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "Some-Org/Some-Model-0.6B"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Path:
    """A Hugging Face cache with config.json of one repository, laid out as the library does."""
    repository = tmp_path / "hub" / "models--Some-Org--Some-Model-0.6B"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copy(model, repository / "blobs" / "aa11")
    (snapshot / "config.json").symlink_to("../../blobs/aa11")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_name_is_found_in_the_cache(cli: Command, cache: Path, model: Path) -> None:
    found = read_model(REPOSITORY)
    assert found.config == json.loads(model.read_bytes())
    assert (found.name, found.hf_quant_config) == ("Some-Model-0.6B", None)
    answer = cli("select", "--model", REPOSITORY, "--machine", "h100")
    assert answer.out.startswith("Some-Model-0.6B, layers 0-47, on h100:")


@pytest.mark.parametrize("below", ["", f"snapshots/{COMMIT}", f"snapshots/{COMMIT}/config.json"])
def test_a_folder_of_the_cache_has_the_name_of_its_repository(cache: Path, below: str) -> None:
    given = cache / "models--Some-Org--Some-Model-0.6B" / below
    assert read_model(str(given)) == read_model(REPOSITORY)


def test_the_quantization_file_beside_is_read(cache: Path) -> None:
    snapshot = cache / "models--Some-Org--Some-Model-0.6B" / "snapshots" / COMMIT
    (snapshot / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert read_model(REPOSITORY).hf_quant_config == {"quantization": {"quant_algo": "FP8"}}


def test_a_folder_of_that_name_comes_before_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / REPOSITORY
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert read_model(REPOSITORY).config == {}


COMMANDS = [
    ("select",), ("explain",), ("why-not", "TRITON"), ("run",), ("tune", "--out", "tuned"),
    ("bench",), ("matrix",),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_what_is_not_in_the_cache_is_said_with_the_command_that_fetches_it(
    cli: Command, cache: Path, command: tuple[str, ...]
) -> None:
    answer = cli(*command, "--model", "Some-Org/Other")
    assert answer.code == 2
    assert f"the Hugging Face cache ({cache}) has no config.json" in answer.err
    assert "hf download Some-Org/Other config.json\n" in answer.err


def test_the_cache_needs_huggingface_hub(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    answer = cli("select", "--model", REPOSITORY)
    assert answer.code == 2
    assert "pip install 'moe-rules[hub]'" in answer.err


@pytest.mark.parametrize("given", ["Some-Org/-bad-", "Some--Org/x", "a/b..c"])
def test_a_name_that_no_repository_can_have(cli: Command, cache: Path, given: str) -> None:
    answer = cli("select", "--model", given)
    assert answer.code == 2
    assert f"--model {given}: there is no such file or folder; " in answer.err


def test_a_slip_in_the_name_of_a_model_leads_to_the_nearest(cli: Command) -> None:
    answer = cli("select", "--model", MODELS / "Qwen3-30B-A3.json")
    assert answer.code == 2
    assert f"no such file or folder; did you mean {MODELS / 'Qwen3-30B-A3B.json'}?" in answer.err


def test_a_model_that_is_not_there(cli: Command, tmp_path: Path) -> None:
    assert cli("select", "--model", tmp_path / "x.json").err.endswith("no such file or folder\n")
    missing = tmp_path / "nowhere" / "config.json"
    assert cli("select", "--model", missing).err.endswith("no such file or folder\n")
    assert "there is no such file" in cli("select", "--model", "models/x.json").err
    assert "the folder has no config.json" in cli("select", "--model", tmp_path).err


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
)
def test_weights_are_no_configuration(cli: Command, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    assert "give the config.json that belongs to it" in cli("select", "--model", file).err
    file.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    assert f"{name} is in it, but it holds weights" in cli("select", "--model", tmp_path).err
    (tmp_path / "config.json").write_text("{}")
    assert f"give {tmp_path}/config.json" in cli("select", "--model", file).err


def test_a_gguf_file_is_no_configuration(cli: Command, tmp_path: Path) -> None:
    sentence = (
        "give the config.json, the folder or ORG/NAME of the model that it was converted from"
    )
    file = tmp_path / "model-Q4_K_M.gguf"
    assert sentence in cli("select", "--model", file).err
    file.write_bytes(b"GGUF")
    assert sentence in cli("select", "--model", tmp_path).err


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Qwen3-30B-A3B.json", "Qwen3-30B-A3B"),
        ("Qwen3-0.6B/config.json", "Qwen3-0.6B"),
        ("Qwen3-0.6B", "Qwen3-0.6B"),
        ("Qwen3-0.6B/../Qwen3-0.6B", "Qwen3-0.6B"),
        ("saved.v2", "saved.v2"),
    ],
)
def test_what_a_model_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, name: str
) -> None:
    (tmp_path / "Qwen3-0.6B").mkdir()
    for file in ("Qwen3-30B-A3B.json", "Qwen3-0.6B/config.json", "saved.v2"):
        (tmp_path / file).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert read_model(given).name == name
    monkeypatch.chdir(tmp_path / "Qwen3-0.6B")
    assert read_model(".").name == "Qwen3-0.6B"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "config.json:1:2: not JSON"),
        (b"[]", "a JSON object was expected, not list"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b'"text"', "a JSON object was expected, not str"),
        (b"{} {}", "config.json:1:4: not JSON"),
        (b'{"num_experts": 1' + b"0" * 5000 + b"}", "4300"),
        (b"{}", "architecture"),
        (b'{"architectures": ["NopeForCausalLM"]}', "NopeForCausalLM"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "nested too deeply"),
    ],
    ids=[
        "broken", "list", "encoding", "empty", "blank", "text", "two", "digits", "no fields",
        "unknown", "too deep for JSON", "deep",
    ],
)  # fmt: skip
def test_wrong_model_files(cli: Command, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    answer = cli("select", "--model", tmp_path, "--machine", "h100")
    assert answer.code == 2
    assert message in answer.err


def test_of_a_key_given_twice_the_last_value_counts(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"num_experts": 8, "num_experts": 16}')
    assert read_object(file)[0] == {"num_experts": 16}


@given(data=st.data(), junk=JUNK, command=st.sampled_from([*COMMANDS[:3], ("matrix",)]))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_spoilt_file_is_answered_or_refused(
    cli: Command, tmp_path: Path, data: st.DataObject, junk: object, command: tuple[str, ...]
) -> None:
    configuration = CORPUS[data.draw(st.sampled_from(sorted(CORPUS)))]
    path = data.draw(st.sampled_from(list(paths_of(configuration))))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(spoilt(configuration, path, junk)))
    answer = cli(*command, "--model", file, "--machine", "h100", "--tp", 2)
    assert answer.code in (0, 1, 2)
    assert answer.err.startswith("moe-rules: error: ") is (answer.code == 2 or not answer.out)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_object_or_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    try:
        data, _ = read_object(file)
    except UserError as wrong:
        message = str(wrong)
    else:
        message = str(file)
        assert isinstance(data, dict)
    assert str(file) in message


def test_a_checkpoint_in_mistral_format(cli: Command, tmp_path: Path) -> None:
    params = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
    (tmp_path / "params.json").write_text(json.dumps(params))
    assert read_model(str(tmp_path)).config["architectures"] == ["MistralForCausalLM"]
    assert read_model(str(tmp_path / "params.json")).name == tmp_path.name
    answer = cli("select", "--model", tmp_path, "--machine", "h100")
    assert (answer.code, "no MoE layers" in answer.out) == (0, True)


def test_params_json_counts_beside_consolidated_weights(tmp_path: Path, model: Path) -> None:
    (tmp_path / "params.json").write_text('{"dim": 64}')
    shutil.copy(model, tmp_path / "config.json")
    assert read_model(str(tmp_path)).config["architectures"] == ["Qwen3MoeForCausalLM"]
    (tmp_path / "consolidated-00001-of-00002.safetensors").touch()
    assert read_model(str(tmp_path)).config["architectures"] == ["MistralForCausalLM"]


def test_an_error_names_the_file_and_the_line(cli: Command, model: Path, tmp_path: Path) -> None:
    good = json.loads(model.read_bytes())
    block = {"quant_method": "gptq", "bits": 4, "dynamic": {"+:a.b": [1]}}
    odd, short = tmp_path / "odd.json", tmp_path / "short.json"
    odd.write_text(json.dumps({"quantization_config": block, **good}, indent=1))
    short.write_text(json.dumps({**good, "model_type": "mine", "num_experts": None}))
    answer = cli("select", "--model", odd, "--machine", "h100")
    assert answer.code == 2
    assert f"{odd}:6: quantization_config.dynamic.+:a.b must be a mapping" in answer.err
    several = ("report", "--model", model, "--model", short, "--machine", "h100")
    assert f"{short} does not give num_experts" in cli(*several, "--out", tmp_path / "page").err


def test_an_error_names_the_line_of_what_came_through_a_pipe(cli: Command, tmp_path: Path) -> None:
    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": "8",
    }
    writer = threading.Thread(target=pipe.write_text, args=(json.dumps(config, indent=1),))
    writer.start()
    answer = cli("select", "--model", pipe, "--machine", "h100")
    writer.join()
    assert answer.code == 2
    assert f"{pipe}:6: num_experts must be an integer, not '8'" in answer.err


def test_an_error_names_the_quantization_file(cli: Command, model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "config.json")
    file = tmp_path / "hf_quant_config.json"
    file.write_text('{"quant_method": "gptq",\n\n"bits": "4"}')
    answer = cli("select", "--model", tmp_path, "--machine", "h100")
    assert f"{file}:3: bits must be an integer, not '4'" in answer.err


def test_an_error_names_mistrals_file(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text('{"moe": {"num_experts": 8}}')
    assert f"neither {file} nor a config.json" in cli("select", "--model", file).err
