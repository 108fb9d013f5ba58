"""Words of a vocabulary: what they mean is there, and none follows from what comes later."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.files.problems import RuleFileError
from moe_rules.language.ruleset import load_platform
from tests.conftest import MakeRules

Write = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sets: {mine: [silu, $no_mul]}", "a set has no other sets"),
        ("derived: {num_experts: {%s, cases: []}}", "the fact 'num_experts' is supplied"),
        ("derived: {mine: {%s, cases: [{value: 1, value_of: ep_size}]}}", "either value or"),
        ("derived: {mine: {%s, cases: [{when: {ep_size: 1}}]}}", "either value or value_of"),
        ("derived: {mine: {%s, cases: [{value_of: ep_sise}]}}", "did you mean 'ep_size'?"),
        ("derived: {mine: {%s, cases: [{value_of: activation}]}}", "no int fact 'activation'"),
        (
            "derived: {mine: {%s, cases: [{when: {mine: 1}, value: 2}]}}",
            "cannot follow from 'mine'",
        ),
        (
            "derived: {mine: {%s, cases: [{value_of: more}]}, more: {%s, cases: [{value: 1}]}}",
            "'mine' cannot follow from 'more': that comes later",
        ),
    ],
)
def test_words_that_mean_nothing_are_refused(
    small: MakeRules, write: Write, tmp_path: Path, words: str, message: str
) -> None:
    small()
    write("mine/words.yaml", words.replace("%s", "type: int, meaning: mine"))
    with pytest.raises(RuleFileError, match=re.escape(message)) as error:
        load_platform("cuda", [tmp_path / "mine"], packaged=tmp_path / "packaged")
    assert {problem.location.short for problem in error.value.problems} == {"mine/words.yaml:1"}
