"""Values that stand for classes of a fact are values that it can have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from moe_rules.analysis.candidates import candidates
from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.conditions import Clause
from moe_rules.language.parse import Parser
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.quant_keys import QuantKey


def test_keys_cover_some_of_a_weight_or_all_of_it(write: Callable[[str, str], Path]) -> None:
    parser = Parser(read_yaml(write("any.yaml", "{}")), FACTS, {})
    tests = []
    for scale in ({"rows": ">1"}, {"rows": "<128", "columns": ">=1"}, {"columns": -1}):
        clause = parser.condition({"weight_key": {"scale": scale}}, ())
        assert isinstance(clause, Clause)
        tests.append(clause.test)
    found = candidates(FACTS["weight_key"], tests, ())
    keys = [key for key in found if isinstance(key, QuantKey)]
    assert {key.scale.group_shape[0] > 1 for key in keys} == {True, False}
    for key in keys:
        assert QuantKey.from_dict(key.to_dict()) == key
