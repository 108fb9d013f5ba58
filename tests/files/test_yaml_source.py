"""What stands in a YAML file, as YAML 1.2 reads it, and where."""

from __future__ import annotations

import pytest

from moe_rules.files.problems import RuleFileError
from moe_rules.files.yaml_source import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("off", "off"),
        ("~", None),
        ("-12", -12),
        ("1_0", "1_0"),
        ("0x1F", "0x1F"),
        ("1:30", "1:30"),
        ("9.0", 9.0),
        (".inf", ".inf"),
        ("2026-11-23", "2026-11-23"),
        ("'12'", "12"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}", "f.yaml").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_a_key_that_is_given_wins_over_a_merged_one_and_keeps_its_place() -> None:
    source = parse_yaml("a: &a {one: 1, two: 2}\nb:\n  one: 3\n  <<: *a\n", "f.yaml")
    assert source.data["b"] == {"one": 3, "two": 2}
    assert str(source.at(("b", "one"))) == "f.yaml:3:8"
    assert str(source.key_at(("b", "one"))) == "f.yaml:3:3"
    assert str(source.key_at(("b", "two"))) == "f.yaml:1:16"


def test_only_mappings_are_merged() -> None:
    with pytest.raises(RuleFileError, match="<< takes a mapping or a list of mappings"):
        parse_yaml("a: &a [1]\nb: {<<: *a}\n", "f.yaml")
