"""Conditions in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.conditions import Condition
from moe_rules.language.parse import Parser
from moe_rules.vocabulary.facts import FACTS
from tools.site.conditions import listed, sentence


def parsed(raw: Any) -> Condition:
    source = read_yaml(packaged_rules() / "tpu.yaml")
    parser = Parser(source, FACTS, {"no_mul": ["silu_no_mul", "gelu_no_mul"]})
    condition = parser.condition(raw, ())
    assert parser.problems == []
    return condition


def plain(text: str) -> str:
    """Without links and marks of code."""
    return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text).replace("`", "")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "always"),
        ({"in_dtype": "bf16"}, "in_dtype is bf16"),
        ({"in_dtype": ["bf16", "fp16"]}, "in_dtype is one of bf16, fp16"),
        ({"activation": "$no_mul"}, "activation is one of silu_no_mul, gelu_no_mul"),
        ({"activation": {"not": "silu"}}, "activation is not silu"),
        ({"num_experts": "<=992"}, "num_experts is at most 992"),
        (
            {"compute_capability": ">=8.9 <12.0"},
            "compute_capability is at least 8.9 and less than 12.0",
        ),
        ({"compute_capability": ["9.0", "10.*"]}, "compute_capability is 9.0 or 10.*"),
        ({"hidden_dim": {"multiple_of": 128}}, "hidden_dim is a multiple of 128"),
        (
            {"hidden_dim": {"multiple_of": "group_size"}},
            "hidden_dim is a multiple of group_size",
        ),
        (
            {"activation_key": {"same_as": "moe_activation_override"}},
            "activation_key is the same as moe_activation_override",
        ),
        ({"VLLM_USE_DEEP_GEMM": "set"}, "VLLM_USE_DEEP_GEMM is set"),
        ({"VLLM_USE_DEEP_GEMM": False}, "VLLM_USE_DEEP_GEMM is off"),
        (
            {"any": [{"ep_size": 1}, {"use_ep": False, "dp_size": 1}]},
            "(ep_size is 1 or use_ep is false and dp_size is 1)",
        ),
        ({"not": {"ep_size": 1, "dp_size": 1}}, "not (ep_size is 1 and dp_size is 1)"),
    ],
)
def test_in_words(raw: Any, words: str) -> None:
    assert plain(sentence(parsed(raw))) == words


def test_listed_one_by_one_with_lines(tmp_path: Path) -> None:
    text = plain(listed(parsed({"ep_size": 1, "any": [{"use_ep": False}, {"dp_size": 2}]})))
    assert [re.sub(r" \(.*", "", line) for line in text.splitlines()] == [
        "- ep_size is 1",
        "- one of these holds",
        "    - use_ep is false",
        "    - dp_size is 2",
    ]
