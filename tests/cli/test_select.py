"""select, and what explain and why-not share with it: answers, and what is said to wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.cli.deployment import Question
from moe_rules.selectors.selector import select_backend
from moe_rules.vocabulary.layer import FusedMoEConfig
from tests.cli.conftest import LAYER, MODELS, Command


def test_text_says_backend_kernel_and_why(cli: Command, model: Path) -> None:
    answer = cli("select", "--model", model, "--machine", "h100")
    assert answer.code == 0
    assert "TRITON / TritonExperts" in answer.out
    because = next(line for line in answer.out.splitlines() if "because:" in line)
    assert "Hopper" in because
    assert "cuda/unquantized.yaml:" in because


@pytest.mark.parametrize("platform", ["h100", "b200", "mi300x", "x86-amx", "xpu", "tpu"])
def test_json_is_the_decision_of_the_library(cli: Command, model: Path, platform: str) -> None:
    answer = cli("select", "--model", model, "--machine", platform, "--format", "json")
    config = FusedMoEConfig(
        num_experts=128, experts_per_token=8, hidden_dim=2048, intermediate_size=768,
        routing_method="RenormalizeNaive",
    )  # fmt: skip
    ours = select_backend("unquantized", config, machine=platform, environ={})
    assert answer.code == 0
    assert (answer.json["backend"], answer.json["kernel"]) == (ours.backend, ours.kernel)
    assert answer.json["rules"] == ours.fingerprint
    assert answer.json["layers"] == list(range(48))


def test_a_stated_fact_wins_over_the_option_for_it(cli: Command, model: Path) -> None:
    words = ["--model", model, "--machine", "h100", "--format", "json", "--tp", "4", "--ep"]
    assert cli("select", *words, "--sp", "2").json["facts"]["sp_size"] == 2
    answer = cli("select", *words, "--sp", "2", "--set", "sp_size=4")
    assert answer.json["facts"]["sp_size"] == 4


def test_what_will_not_load_is_said_beside_the_decision(cli: Command, tmp_path: Path) -> None:
    config = json.loads((MODELS / "Qwen3-30B-A3B-FP8.json").read_text(encoding="utf-8"))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "moe_intermediate_size": 640}), encoding="utf-8")
    words = ["--model", tmp_path, "--machine", "h100", "--tp", "8"]
    reason = "intermediate_size_per_partition 80 is not a multiple of 128"
    for command in ("select", "explain"):
        answer = cli(command, *words)
        assert answer.code == 0
        assert "TRITON / TritonExperts" in answer.out
        assert reason in next(line for line in answer.out.splitlines() if "will not load:" in line)
    (refusal,) = cli("select", *words, "--format", "json").json["load_refusals"]
    assert refusal.endswith(reason)
    assert cli("select", *words[:-1], "4", "--format", "json").json["load_refusals"] == []


def test_a_layer_can_be_stated(cli: Command) -> None:
    answer = cli("select", "--machine", "h100", "--oracle", "unquantized", *LAYER, "--tp", "2",
                 "--format", "json")  # fmt: skip
    facts = answer.json["facts"]
    assert (facts["tp_size"], facts["intermediate_size_per_partition"]) == (2, 256)


def test_a_stated_fact_overrides_model_and_machine(cli: Command, model: Path) -> None:
    words = ["select", "--model", model, "--machine", "h100", "--format", "json"]
    plain = cli(*words).json
    stated = cli(*words, "--set", "hidden_dim=4096", "--set", "compute_capability=10.0",
                 "--set", "flashinfer_trtllm_fused_moe=false").json  # fmt: skip
    assert (plain["facts"]["hidden_dim"], stated["facts"]["hidden_dim"]) == (2048, 4096)
    assert stated["facts"]["compute_capability"] == "10.0"
    assert stated["machine"]["software"]["flashinfer_trtllm_fused_moe"] is False
    failed = [c for c in stated["candidates"] if c["backend"] == "FLASHINFER_TRTLLM"]
    assert {c["failures"][0]["code"] for c in failed} == {"software"}


def test_stated_switches_win_over_the_environment(
    cli: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    words = ["select", "--model", model, "--machine", "h100", "--format", "json"]
    assert cli(*words).json["facts"]["VLLM_BATCH_INVARIANT"] is True
    stated = cli(*words, "--set", "VLLM_BATCH_INVARIANT=0").json
    assert stated["facts"]["VLLM_BATCH_INVARIANT"] is False


def test_an_unreadable_switch_is_an_error_where_it_is_asked_for(
    cli: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["select", "--model", model, "--machine", "h100"]
    monkeypatch.setenv("VLLM_CPU_INT4_W4A8", "")
    answer = cli(*words)
    assert answer.code == 0
    assert "note: the variable VLLM_CPU_INT4_W4A8='' cannot be read" in answer.out
    assert "VLLM_CPU" not in cli(*words, "--set", "VLLM_CPU_INT4_W4A8=1").out
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "true")
    answer = cli(*words)
    assert answer.code == 2
    assert "VLLM_BATCH_INVARIANT='true' cannot be read; it is an integer" in answer.err
    assert cli(*words, "--set", "VLLM_BATCH_INVARIANT=false").code == 0


def test_software_presets_differ(cli: Command, model: Path) -> None:
    words = ["select", "--model", model, "--machine", "b200", "--format", "json"]
    assert cli(*words, "--software", "full").json["backend"] == "FLASHINFER_TRTLLM"
    assert cli(*words, "--software", "bare").json["backend"] == "TRITON"


def test_an_overlay_changes_the_order_and_is_named(
    cli: Command, model: Path, tmp_path: Path
) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        "platform: cuda\n"
        "oracles:\n"
        "  unquantized:\n"
        "    adjust:\n"
        "      - {move: TRITON, before: FLASHINFER_TRTLLM, because: we measured it}\n"
    )
    answer = cli("select", "--model", model, "--machine", "b200", "--rules", overlay)
    assert "TRITON / TritonExperts" in answer.out
    assert "we measured it" in answer.out
    assert "mine.yaml:5" in answer.out


def test_nothing_serves_is_1_with_reasons(cli: Command, model: Path) -> None:
    words = ["--model", model, "--machine", "a100", "--moe-backend", "flashinfer_trtllm"]
    answer = cli("select", *words)
    assert answer.code == 1
    assert "no backend serves" in answer.out
    assert "[device] compute_capability is 8.0, wanted 10.*" in answer.err
    assert "yaml:" in answer.err
    assert "  nearest:\n    moe_backend: auto instead of flashinfer_trtllm\n" in answer.err
    as_json = cli("select", *words, "--format", "json")
    assert as_json.code == 1
    assert as_json.json["backend"] is None
    assert "flashinfer_trtllm" in as_json.json["error"]


@pytest.fixture
def two_kinds(tmp_path: Path) -> Path:
    """A folder with a checkpoint whose last layer is left unquantized."""
    config = json.loads((MODELS / "Qwen3-30B-A3B-FP8.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = ["model.layers.47.mlp.experts"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_each_kind_of_layer_gets_an_answer(cli: Command, two_kinds: Path) -> None:
    words = ["select", "--model", two_kinds, "--machine", "h100"]
    answer = cli(*words)
    assert "layers 0-46" in answer.out
    assert "layer 47" in answer.out
    decisions = cli(*words, "--format", "json").json
    assert [decision["oracle"] for decision in decisions] == ["fp8", "unquantized"]


def test_layer_picks_a_kind(cli: Command, two_kinds: Path) -> None:
    words = ["select", "--model", two_kinds, "--machine", "h100", "--format", "json"]
    assert cli(*words, "--layer", 47).json["oracle"] == "unquantized"
    answer = cli(*words, "--layer", 48)
    assert answer.code == 2
    assert "layers 0-46; layer 47" in answer.err


@given(st.sets(st.integers(0, 60), min_size=1))
def test_layers_in_words_name_every_layer(indices: set[int]) -> None:
    config = FusedMoEConfig(8, 2, 64, 64)
    words = Question("fp8", config, {}, tuple(sorted(indices))).layers_in_words
    runs = words.partition(" ")[2].split(", ")
    pairs = [tuple(map(int, run.split("-"))) for run in runs]
    named = [i for pair in pairs for i in range(pair[0], pair[-1] + 1)]
    assert named == sorted(indices)


WRONG = {
    "no such machine": (["--machine", "h10"], "nearest: h100"),
    "machine file is a folder": (["--machine", "/"], "is a directory"),
    "unknown preset": (["--machine", "h100", "--software", "ful"], "did you mean 'full'?"),
    "no such overlay": (["--rules", "nowhere"], "there is no overlay 'nowhere'"),
    "unknown fact": (["--set", "num_expert=3"], "did you mean 'num_experts'?"),
    "derived fact": (["--set", "all2all=none"], "follows from other facts"),
    "no value": (["--set", "num_experts"], "write it as FACT=VALUE"),
    "wrong value": (
        ["--set", "num_experts=many"],
        "num_experts cannot be 'many'; it is an integer",
    ),
    "unknown word": (["--set", "activation=sliu"], "did you mean 'silu'?"),
    "unknown key": (["--weight", "kFp8StaticTensor"], "did you mean 'kFp8StaticTensorSym'?"),
    "key is not JSON": (["--weight", "{"], "not JSON"),
    "malformed key": (["--weight", '{"dtype": 3}'], "malformed quantization key"),
    "unknown all2all": (["--all2all", "deepep"], "there is no such backend"),
    "unknown oracle": (["--oracle", "fp9"], "did you mean 'fp8'?"),
    "foreign fact": (["--machine", "h100", "--set", "gfx=gfx942"], "rocm devices"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("command", ["select", "explain"])
def test_wrong_options(
    cli: Command, model: Path, command: str, words: list[str], message: str
) -> None:
    platform = [] if "--machine" in words else ["--machine", "h100"]
    answer = cli(command, "--model", model, *platform, *words)
    assert answer.code == 2
    assert answer.err.startswith("moe-rules: error: ")
    assert answer.err.count("error: ") == 1
    assert message in answer.err
    assert answer.out == ""


def test_missing_facts_are_listed(cli: Command) -> None:
    answer = cli("select", "--machine", "h100", "--set", "num_experts=8")
    assert answer.code == 2
    for word in ("--oracle", "experts_per_token", "hidden_dim", "intermediate_size"):
        assert word in answer.err
    assert "num_experts" not in answer.err


def test_an_unknown_model_can_be_stated(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NopeForCausalLM"]}')
    words = ["select", "--model", tmp_path, "--machine", "h100"]
    answer = cli(*words)
    assert answer.code == 2
    assert "--set num_experts=..." in answer.err


def test_tensor_parallel_size_that_does_not_divide(cli: Command, model: Path) -> None:
    answer = cli("select", "--model", model, "--machine", "h100", "--tp", "5")
    assert answer.code == 2
    assert "5" in answer.err


def test_calls_that_are_served_differently_are_listed(
    cli: Command, model: Path, tmp_path: Path
) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        "platform: cuda\noracles: {unquantized: {adjust: [\n"
        '  {when: {num_tokens: "<=64"}, first: [TRITON], because: faster at decode}]}}\n'
    )
    asked = ("select", "--model", model, "--machine", "b200")
    text = cli(*asked, "--rules", overlay).out
    assert "calls of 1 to 64 tokens: TRITON / TritonExperts" in text
    assert "calls of 65 or more tokens: FLASHINFER_TRTLLM" in text
    ranges = cli(*asked, "--rules", overlay, "--format", "json").json["by_num_tokens"]
    assert [(r["first"], r["last"], r["backend"]) for r in ranges] == [
        (1, 64, "TRITON"),
        (65, None, "FLASHINFER_TRTLLM"),
    ]
    assert "calls of" not in cli(*asked).out
    for command in (("explain",), ("why-not", "TRITON")):
        text = cli(*command, *asked[1:], "--rules", overlay).out
        assert "calls of 1 to 64 tokens: TRITON / TritonExperts" in text
        assert "calls of" not in cli(*command, *asked[1:]).out


def test_a_request_by_oracle_and_role_is_shown_with_its_place(
    cli: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("platform: cuda\nrequested:\n  unquantized: flashinfer_cutlass\n")
    words = ["select", "--model", model, "--machine", "h100", "--rules", overlay]
    answer = cli(*words)
    assert "FLASHINFER_CUTLASS / FlashInferExperts" in answer.out
    assert "requested by: unquantized=flashinfer_cutlass" in answer.out
    assert "mine.yaml:3" in answer.out
    monkeypatch.setenv("MOE_RULES_BACKEND", "unquantized=auto,draft=triton")
    answer = cli("explain", *words[1:])
    assert "requested by: unquantized=auto (MOE_RULES_BACKEND)" in answer.out
    answer = cli(*words, "--set", "model_role=draft")
    assert "requested by: draft=triton (MOE_RULES_BACKEND)" in answer.out
    monkeypatch.setenv("MOE_RULES_BACKEND", "unquantized")
    answer = cli(*words)
    assert answer.code == 2
    assert "MOE_RULES_BACKEND: 'unquantized' is no request" in answer.err


def test_the_option_of_the_command_line(cli: Command, model: Path) -> None:
    select = ("select", "--model", model, "--machine", "b200")
    given = '{"moe": "mxfp8", "ignore": ["*layers.0.*"]}'
    answer = cli(*select, "--quantization", "online", "--quantization-config", given)
    assert "layer 0, on b200" in answer.out
    assert "oracle mxfp8" in answer.out
    for wrong in ("{", "[]"):
        answer = cli(*select, "--quantization-config", wrong)
        assert (answer.code, "not" in answer.err) == (2, True)


@pytest.mark.parametrize("command", ["select", "explain", "why-not"])
def test_a_dense_model_has_no_moe_layers(cli: Command, tmp_path: Path, command: str) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    backend = ["TRITON"] if command == "why-not" else []
    answer = cli(command, *backend, "--model", config, "--machine", "h100")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{config}: the model has no MoE layers\n"
    answer = cli(command, *backend, "--model", config, "--machine", "h100", "--format", "json")
    assert (answer.code, json.loads(answer.out)["layers"]) == (0, [])


def test_that_no_oracle_is_asked_is_an_answer(cli: Command, tmp_path: Path) -> None:
    model = {
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(model))
    asked = ("select", "--model", str(tmp_path), "--machine", "h100")
    text = cli(*asked)
    assert text.code == 0
    assert "fused_experts" in text.out
    assert not text.err
    answer = json.loads(cli(*asked, "--format", "json").out)
    assert (answer["oracle"], answer["error"]) == (None, None)
    assert "fused_experts" in answer["notes"][0]
