from __future__ import annotations

import pytest

from moe_rules.models.names import SKIP_RULES, matches_pattern, rename, split_trailing_star

LAYER = "model.layers.3.mlp.experts"


def test_rename_applies_regex_substring_prefix_suffix_in_this_order() -> None:
    rules = {
        "regex": {r"blocks\.(\d+)": r"layers.\1"},
        "substring": {".ffn.": ".mlp."},
        "prefix": {"language.": "model."},
        "suffix": {".moe": ".experts"},
    }
    assert rename("language.blocks.3.ffn.moe", rules) == LAYER
    assert rename(LAYER, None) == LAYER


@pytest.mark.parametrize(
    ("rule", "entry", "skips"),
    [
        ("exact_or_inside_experts", LAYER, True),
        ("exact_or_inside_experts", LAYER + ".0.up_proj", True),
        ("exact_or_inside_experts", "model.layers.3.mlp", False),
        ("substring", "layers.3.", True),
        ("substring", "layers.4.", False),
        ("wildcard", "model.layers.3.*", True),
        ("wildcard", "*.mlp.experts*", True),
        ("wildcard", "model.layers.4.*", False),
        ("pattern", "re:.*experts", True),
        ("pattern", "re:experts", False),
        ("pattern", "model.layers.3", False),
        ("pattern_or_child", LAYER + ".0.w1", True),
        ("pattern_or_child", "model.layers.3.mlp", False),
    ],
)
def test_each_rule_skips_what_its_checkpoints_mean(rule: str, entry: str, skips: bool) -> None:
    assert SKIP_RULES[rule]([entry])(LAYER) is skips


def test_no_rule_skips_for_an_empty_list() -> None:
    assert not any(rule([])(LAYER) for rule in SKIP_RULES.values())


def test_a_regular_expression_matches_from_the_start() -> None:
    assert matches_pattern(LAYER, r"re:model\.layers\.\d+")
    assert not matches_pattern(LAYER, r"re:layers")


def test_a_tree_of_modules_is_the_module_and_what_is_below() -> None:
    assert split_trailing_star(["a.b*", "a.*", "c"]) == ["a.b", "a.b.*", "a.*", "c"]
