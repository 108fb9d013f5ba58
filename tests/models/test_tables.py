from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest

from moe_rules.files.problems import RuleFileError
from moe_rules.files.releases import releases
from moe_rules.models import CheckpointRefusedError, derive_layers, load_tables
from moe_rules.models.tables import tables_directory


def edited(tmp_path: Path, name: str, old: str, new: str) -> Path:
    """A copy of the packaged tables with one change."""
    directory = tmp_path / "models"
    shutil.copytree(tables_directory(), directory)
    path = directory / f"{name}.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return directory


def in_dbrx(line: str) -> tuple[str, str]:
    row = "  DbrxForCausalLM:\n"
    return row, f"{row}    {line}\n"


def test_every_row_is_complete() -> None:
    tables = load_tables()
    for row in tables.architectures["architectures"].values():
        assert row["routing"]["scoring"] is not None
        assert "{layer}" in row["experts"] or row["language_model"]
    for name, method in tables.quantization["methods"].items():
        assert method["schemes"] or method["deprecated"], name


def test_like_takes_over_what_a_row_does_not_give() -> None:
    rows = load_tables().architectures["architectures"]
    row = rows["JambaForSequenceClassification"]
    assert row["experts"] == rows["JambaForCausalLM"]["experts"]
    assert row["rename"] == rows["JambaForCausalLM"]["rename"]


def test_tables_are_read_once() -> None:
    assert load_tables() is load_tables()


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        (
            "architectures",
            "  DbrxForCausalLM:\n    experts:",
            "  DbrxForCausalLM:\n    expert:",
            "unknown key 'expert'; did you mean 'experts'?",
        ),
        (
            "architectures",
            "{like: JambaForCausalLM}",
            "{like: JambaForCausal}",
            "unknown name in like 'JambaForCausal'; did you mean 'JambaForCausalLM'?",
        ),
        (
            "architectures",
            "  JambaForCausalLM:\n",
            "  JambaForCausalLM:\n    like: JambaForSequenceClassification\n",
            "leads back to itself",
        ),
        (
            "architectures",
            *in_dbrx("has_bias: {field: n, defalt: 8}"),
            "mean 'default'? (known: field, ",
        ),
        ("architectures", *in_dbrx("reads: {a: b}"), "a list is expected here"),
        (
            "architectures",
            *in_dbrx("mtp: {count: 1, experts: 'x.{lyer}'}"),
            "not {lyer}",
        ),
        ("architectures", *in_dbrx("rename: {regex: {'([': x}}"), "'([' cannot become 'x'"),
        (
            "quantization",
            "\nschemes:\n",
            "\nschemes:\n  me: [{then: me}]\n",
            "leads back to itself",
        ),
        ("quantization", "method: auto_gptq", "method: autogptq", "did you mean 'auto_gptq'?"),
        ("quantization", "format: quark", "format: quarck", "did you mean 'quark'?"),
        ("quantization", "same_as: fp8", "same_as: gptq_marlin", "has same_as itself"),
        ("quantization", "then: moe_wna16", "then: wna16", "unknown name in then 'wna16'"),
        ("quantization", "rule: substring", "rule: substrings", "did you mean 'substring'?"),
        (
            "quantization",
            "weight: kInt4Static\n",
            "weight: kInt4Statik\n",
            "did you mean 'kInt4Static'?",
        ),
        (
            "quantization",
            "- {oracle: mxfp4, activation: kMxfp4Dynamic}",
            "- {}",
            "exactly one of oracle, no_oracle",
        ),
        ("quantization", "methods:", "methods: [", "quantization.yaml"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, name: str, old: str, new: str, said: str
) -> None:
    with pytest.raises(RuleFileError) as caught:
        load_tables(edited(tmp_path, name, old, new))
    (problem,) = caught.value.problems
    assert said in str(problem)
    assert problem.location.line > 1


def test_a_directory_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuleFileError, match=r"architectures\.yaml"):
        load_tables(tmp_path)


def overlay(folder: Path, name: str, text: str) -> Path:
    path = folder / "older" / "models" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder / "older"


def test_an_overlay_says_entries_otherwise(tmp_path: Path) -> None:
    text = """
    architectures:
      Qwen3MoeForCausalLM: {like: Qwen3MoeForCausalLM, has_bias: true}
      MyMoeForCausalLM: {like: Qwen3MoeForCausalLM}
    """
    over = overlay(tmp_path, "architectures", textwrap.dedent(text))
    before = load_tables().architectures["architectures"]
    after = load_tables(overlays=(over,)).architectures["architectures"]
    changed = {**before["Qwen3MoeForCausalLM"], "has_bias": True}
    assert after["Qwen3MoeForCausalLM"] == changed
    assert after["MyMoeForCausalLM"]["has_bias"] is True
    assert after["MixtralForCausalLM"] == before["MixtralForCausalLM"]


def test_an_overlay_withdraws_entries_with_the_reason(tmp_path: Path) -> None:
    over = overlay(
        tmp_path, "architectures", "withdrawn: {architectures: {FlintForCausalLM: New in 2.0}}"
    )
    tables = load_tables(overlays=(over,))
    assert "FlintForCausalLM" not in tables.architectures["architectures"]
    config = {"architectures": ["FlintForCausalLM"], "model_type": "flint"}
    with pytest.raises(CheckpointRefusedError, match=r"not in this release of vLLM: New in 2\.0"):
        derive_layers(config, {"device": "cuda"}, tables=tables)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("architectures", "withdrawn: {architectures: {Quen: x}}", "architectures has no 'Quen'"),
        (
            "architectures",
            "withdrawn: {architectures: [Quen]}",
            "1:28: error: a mapping is",
        ),
        ("architectures", "architecture: {}", "did you mean 'architectures'"),
        ("architectures", "- 1", "a mapping is expected here"),
        ("quantization", "withdrawn: {methods: {fp8: x}}", "known"),
        ("registry", "withdrawn: {endings: {Modell: x}}", "endings has no 'Modell'"),
    ],
)
def test_overlays_that_are_wrong(tmp_path: Path, name: str, text: str, message: str) -> None:
    over = overlay(tmp_path, name, text)
    with pytest.raises(RuleFileError, match=message):
        load_tables(overlays=(over,)).registry  # noqa: B018


@pytest.mark.parametrize("release", [one.name for one in releases()])
def test_the_tables_of_every_release_are_whole(release: str) -> None:
    tables = load_tables(release=release)
    assert tables.registry["endings"]
    assert tables.mistral["architectures"]
