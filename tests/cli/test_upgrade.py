"""upgrade: what another release changes of models, of anything, and how that is written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from moe_rules.analysis.difference import Answer
from moe_rules.cli import releases_page
from moe_rules.cli.upgrading import kind_of
from moe_rules.reporting.generated import page
from tests.cli.conftest import MODELS, Command

FP8 = MODELS / "Qwen3-30B-A3B-FP8.json"
BF16 = MODELS / "Mixtral-8x7B.json"
NEW = {
    "architectures": ["AliceAIForCausalLM"],
    "model_type": "alice_ai",
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 2,
}
"""An architecture that 0.32 does not know."""
FROM_TO = ("--from", "0.32", "--to", "0.33")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    (tmp_path / "new.json").write_text(json.dumps(NEW))
    return tmp_path / "new.json"


def test_layers_of_a_model_and_what_users_may_ask_for(cli: Command) -> None:
    words = [word for name in ("h100", "mi300x", "mi325x") for word in ("--machine", name)]
    answer = cli("upgrade", *FROM_TO, "--model", FP8, *words)
    assert answer.code == 1
    assert "  h100    layers 0-47  TRITON / TritonExperts, as before" in answer.out
    renamed = "fp8 on rocm: AITER / AiterExperts -> AITER / AiterFp8BlockExperts"
    assert f"Another kernel of the backend: {renamed}" in answer.out
    assert "  for layers 0-47 on mi300x and mi325x" in answer.out
    assert "  kernel AiterExperts vanishes (fp8 on rocm)" in answer.out
    (names,) = re.findall(r"(\d+) names that appear or vanish\n$", answer.out)
    assert int(names) == len(re.findall(r"^  \w+ \w+ (appears|vanishes|matters)", answer.out, re.M))
    assert "0 of 3 kinds of layers changed; 1 region of deployments that differ; " in answer.out


def test_a_fact_that_matters_now_alone_is_no_change(cli: Command) -> None:
    answer = cli("upgrade", *FROM_TO, "--model", FP8, "--machine", "h100")
    assert answer.code == 0
    assert "fact model_type matters now (fp8 on cuda)" in answer.out


def test_a_layer_that_would_not_be_loaded_is_not_served(cli: Command, tmp_path: Path) -> None:
    config = json.loads(FP8.read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "moe_intermediate_size": 640}))
    words = ("--model", tmp_path / "config.json", "--machine", "h100", "--tp", "8")
    answer = cli("upgrade", *FROM_TO, *words, "--format", "json")
    (layers,) = answer.json["asked"][0]["layers"]
    assert layers["before"] == layers["after"]
    assert "80 is not a multiple of 128" in layers["after"]["error"]


def test_switches_of_the_environment_count_for_what_layers_get(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", "1")
    answer = cli("upgrade", "--model", FP8, "--machine", "mi300x", "--format", "json")
    (layers,) = answer.json["asked"][0]["layers"]
    assert layers["kind"] == "kernel"
    assert layers["before"] == {"backend": "AITER", "kernel": "AiterExperts"}
    assert layers["after"] == {"backend": "AITER", "kernel": "AiterFp8BlockExperts"}
    assert layers["facts"] == {}


def test_every_region_has_a_deployment_that_either_release_explains(cli: Command) -> None:
    words = ("--oracle", "unquantized", "--platform", "xpu", "--oracle", "int8")
    found = cli("upgrade", *words, "--format", "json").json
    (asked,) = found["asked"]
    assert asked["model"] is None
    text = cli("upgrade", *words).out
    commands = [line.partition("see: ")[2] for line in text.splitlines() if "see: " in line]
    assert len(commands) == len(asked["differences"]) > 0
    for one, command in zip(asked["differences"], commands, strict=True):
        explain = shlex.split(command)[1:]
        at = explain.index("--release") + 1
        assert explain[at] == "0.33"
        for release, side in (("0.33", "after"), ("0.32", "before")):
            said = cli(*explain[:at], release, *explain[at + 1 :], "--format", "json").json
            assert (said["backend"], said["kernel"]) == (one[side]["backend"], one[side]["kernel"])


def test_a_region_is_shown_on_the_machine_that_was_asked_about(cli: Command) -> None:
    text = cli("upgrade", *FROM_TO, "--model", FP8, "--machine", "mi355x").out
    shown = [line for line in text.splitlines() if "see: " in line]
    assert shown
    assert all("--machine mi355x" in line for line in shown)


def test_a_model_that_the_older_release_does_not_know(cli: Command, new: Path) -> None:
    words = ("upgrade", "--model", new, "--machine", "h100")
    text = cli(*words).out
    unknown = "AliceAIForCausalLM is not in this release of vLLM"
    assert f"h100  layers 0-1  {unknown}" in text
    assert "-> TRITON / TritonExperts" in text
    (asked,) = cli(*words, "--format", "json").json["asked"]
    assert asked["layers"][0]["kind"] == "begins"
    assert asked["layers"][0]["subject"] == "layers 0-1 on h100"
    back = cli("upgrade", "--from", "0.33", "--to", "0.32", *words[1:], "--format", "json").json
    assert back["asked"][0]["layers"][0]["kind"] == "ceases"
    # diff reads models by the tables of either side, too.
    differ = cli("diff", "0.32", "0.33", "--model", new, "--machine", "h100", "--machine", "h200")
    assert differ.code == 1
    assert f"layers 0-1 on h100 and h200: {unknown}" in differ.out
    assert "-> oracle unquantized" in differ.out
    found = cli("diff", "0.32", "0.33", "--model", new, "--machine", "h100", "--format", "json")
    (read,) = found.json["readings"]
    assert (read["after"], found.json["equal"]) == ({"oracle": "unquantized"}, False)


def test_names_of_all_models(cli: Command) -> None:
    names = cli("upgrade", "--platform", "tpu", "--format", "json").json["names"]
    assert {one["kind"] for one in names} == {"architecture"}
    assert (names[0]["name"], names[0]["change"]) == ("AliceAIForCausalLM", "appears")
    text = cli("upgrade", "--platform", "tpu").out
    assert "  architectures: AliceAIForCausalLM, " in text


def test_nothing_changes(cli: Command, tmp_path: Path) -> None:
    answer = cli("upgrade", "--from", "0.33", "--to", "0.33")
    assert (answer.code, answer.out) == (
        0,
        "From 0.33 to 0.33\n\nFrom 0.33 to 0.33 nothing changes: all is decided alike\n",
    )
    dense = tmp_path / "dense.json"
    dense.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    answer = cli("upgrade", "--model", dense, "--machine", "h100")
    assert answer.code == 0
    assert "dense: the model has no MoE layers" in answer.out


def test_markdown_has_tables_and_lists(cli: Command) -> None:
    words = ("--model", FP8, "--machine", "mi300x", "--format", "markdown", "--show", "0")
    text = cli("upgrade", *words).out
    assert text.startswith("## From 0.32 to 0.33\n\n### Names\n\n- ")
    assert "| mi300x | layers 0-47 | TRITON / TritonExperts | as before |" in text
    assert "#### Another kernel of the backend\n\n... and 1 more of that kind (--show)" in text
    assert cli("upgrade", *words, "--exit-zero").code == 0
    text = cli("upgrade", *words[:-2]).out
    assert "#### Another kernel of the backend\n\n- **fp8 on rocm**: " in text


def test_names_of_users_mean_nothing_in_markdown(cli: Command, tmp_path: Path) -> None:
    odd = tmp_path / "a*b`c\n<d>.json"
    odd.write_text(BF16.read_text())
    text = cli("upgrade", *FROM_TO, "--model", odd, "--machine", "h100", "--format", "markdown").out
    assert "\n### a\\*b\\`c \\<d>\n\n" in text


def test_what_only_the_command_would_say_is_told(cli: Command) -> None:
    """A CPU refuses by another error than before only where no kernel serves."""
    words = ("--model", BF16, "--machine", "x86")
    for written, line in (
        ("text", "  as with: VLLM_BATCH_INVARIANT: true\n"),
        ("markdown", "    - as with: `VLLM_BATCH_INVARIANT: true`\n"),
    ):
        text = cli("upgrade", *FROM_TO, *words, "--format", written).out
        refused = text[text.index("Refused otherwise") :]
        assert "where not_supported comes out: " in refused
        assert line in refused
        # What the conditions name is not told again.
        assert "as with" not in text[: text.index("Refused otherwise")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "0.30"], "there are no tables of release '0.30'; the nearest that there are"),
        (["--to", "0.32"], "there are no tables of a release before 0.32; say --from"),
        (["--platform", "cudda"], "did you mean 'cuda'"),
        (["--model", "nothing.json"], "there is no such file or folder"),
        (["--model", str(FP8), "--machine", "h100", "--platform", "rocm"], "nothing is compared"),
        (["--quantization", "fp8"], "--quantization goes with --model"),
    ],
)
def test_what_is_wrong_is_said(cli: Command, words: list[str], message: str) -> None:
    answer = cli("upgrade", *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (Answer("A", "AExperts"), Answer("A", "AExperts"), None),
        (Answer("A", "AExperts"), Answer("A", "BExperts"), "kernel"),
        (Answer("A", "AExperts"), Answer("B", "AExperts"), "backend"),
        (Answer("A", "AExperts"), Answer(error="not_supported"), "ceases"),
        (Answer(error="not_supported"), Answer("A", None), "begins"),
        (Answer(error="not_supported"), Answer(error="invalid_request"), "error"),
    ],
)
def test_kinds_of_changes(before: Answer, after: Answer, kind: str | None) -> None:
    assert kind_of(before, after) == kind


def test_the_page_of_releases_is_in_step(capsys: pytest.CaptureFixture[str]) -> None:
    committed = page("releases.md").read_text(encoding="utf-8")
    assert releases_page.main([]) == 0
    assert capsys.readouterr().out == committed, (
        "run `python -m moe_rules.cli.releases_page --write`"
    )
    assert releases_page.main(["--wirte"]) == 2
