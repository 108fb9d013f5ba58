from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moe_rules.models import TableError, load_tables
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
            "architectures.DbrxForCausalLM.expert: Extra inputs are not permitted",
        ),
        (
            "architectures",
            "{like: JambaForCausalLM}",
            "{like: JambaForCausal}",
            "architectures.JambaForSequenceClassification.like 'JambaForCausal'; "
            "did you mean 'JambaForCausalLM'?",
        ),
        (
            "architectures",
            "  JambaForCausalLM:\n",
            "  JambaForCausalLM:\n    like: JambaForSequenceClassification\n",
            "leads back to itself",
        ),
        ("quantization", "method: auto_gptq", "method: autogptq", "did you mean 'auto_gptq'?"),
        ("quantization", "format: quark", "format: quarck", "did you mean 'quark'?"),
        ("quantization", "same_as: fp8", "same_as: gptq_marlin", "has same_as itself"),
        ("quantization", "then: moe_wna16", "then: wna16", "unknown then 'wna16'"),
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
    with pytest.raises(TableError) as caught:
        load_tables(edited(tmp_path, name, old, new))
    assert said in str(caught.value)


def test_a_directory_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"architectures\.yaml"):
        load_tables(tmp_path)
