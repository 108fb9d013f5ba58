from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models.conditions import Context, holds
from moe_rules.models.sources import value_of

CONTEXT = Context(
    {
        "size": 64,
        "parts": 2,
        "nested": {"size": 8},
        "sizes": [1, 2, 3],
        "act": "gelu",
        "zero": 0,
        "nothing": None,
    },
    platform={"device": "cuda", "capability": 90},
    layer={"index": 1},
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (7, 7),
        (None, None),
        (True, True),
        ("size", 64),
        ("nested.size", 8),
        ("absent", None),
        ("absent.deeper", None),
        ("platform.device", "cuda"),
        ({"literal": "size"}, "size"),
        ({"field": "absent", "default": 5}, 5),
        ({"field": "nothing", "default": 5}, None),
        ({"field": "zero", "where": {"not": 0}}, None),
        ({"field": "size", "where": {"above": 0}}, 64),
        ({"field": "nothing", "where": {"above": 0}}, None),
        ({"field": "sizes", "per_layer": True}, 2),
        ({"field": "size", "per_layer": True}, 64),
        ({"field": "act", "one_of": ["gelu", "silu"]}, True),
        ({"field": "act", "one_of": ["relu"]}, False),
        ({"multiply": ["size", "parts"]}, 128),
        ({"multiply": ["size", 0]}, 0),
        ({"if": "zero", "then": "size", "else": "parts"}, 2),
        ({"if": "act", "then": "size", "else": "parts"}, 64),
        ({"index_below": "parts"}, True),
        ({"index_below": 1}, False),
        (["absent", "parts"], 2),
        ([{"when": {"act": "relu"}, "is": 1}, {"when": {"act": "gelu"}, "is": "size"}], 64),
        ([{"when": {"act": "relu"}, "is": 1}], None),
    ],
)
def test_source(source: Any, expected: Any) -> None:
    assert value_of(source, CONTEXT) == expected


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, True),
        ({"size": 64, "parts": 2}, True),
        ({"size": 64, "parts": 3}, False),
        ({"size": [32, 64]}, True),
        ({"absent": None}, True),
        ({"zero": None}, False),
        ({"zero": False}, False),
        ({"size": {"not": 64}}, False),
        ({"absent": {"not": [1, 2]}}, True),
        ({"size": {"at_least": 64, "below": 65}}, True),
        ({"absent": {"below": 1}}, False),
        ({"act": {"contains": "el"}}, True),
        ({"act": {"starts_with": "el"}}, False),
        ({"size": {"contains": "6"}}, False),
        ({"platform.capability": {"at_least": 80}, "layer.index": 1}, True),
        ({"sizes.2": 3}, True),
        ({"sizes.9": None}, True),
    ],
)
def test_conditions(conditions: dict[str, Any], expected: bool) -> None:
    assert holds(conditions, CONTEXT) is expected
