"""Decisions by number of tokens: ranges cover every call, and agree with asking for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.files.problems import RuleFileError
from moe_rules.language.ruleset import load_platform
from moe_rules.selectors.facts import layer_facts
from moe_rules.selectors.ranges import decide_by_num_tokens
from moe_rules.selectors.selector import Selector
from tests.conftest import SMALL, MakeRules
from tests.engine.layers import LAYER, select, with_section


def adjusted(*conditions: str) -> str:
    lines = "".join(
        f"      - {{when: {{num_tokens: '{c}'}}, {'first' if i % 2 else 'last'}: [FAST]}}\n"
        for i, c in enumerate(conditions)
    )
    return with_section("    adjust:\n" + lines)


def test_without_rules_on_tokens_there_is_one_range(small: MakeRules) -> None:
    (only,) = decide_by_num_tokens(small(), "unquantized", layer_facts(LAYER))
    assert (only.first, only.last, only.decision.backend) == (1, None, "FAST")


def test_a_decision_without_tokens_ignores_rules_on_them(small: MakeRules) -> None:
    assert select(small(rules=adjusted(">=64"))).backend == "FAST"


def test_ranges_begin_where_a_clause_changes_its_mind(small: MakeRules) -> None:
    selector = small(rules=adjusted(">=64", ">1024"))
    ranges = decide_by_num_tokens(selector, "unquantized", layer_facts(LAYER))
    assert [(r.first, r.last, r.decision.backend) for r in ranges] == [
        (1, 63, "FAST"),
        (64, 1024, "SLOW"),
        (1025, None, "FAST"),
    ]


def test_a_range_begins_behind_a_fraction(small: MakeRules) -> None:
    for bound, last in (("<64.5", 64), ("<=64.5", 64), ("<64", 63), ("<=64", 64)):
        rules = SMALL.replace('num_experts: "<=64"', f'num_tokens: "{bound}"')
        ranges = decide_by_num_tokens(small(rules=rules), "unquantized", layer_facts(LAYER))
        assert [(r.last, r.decision.backend) for r in ranges] == [(last, "FAST"), (None, "SLOW")]


def test_what_follows_from_tokens_counts(write: Callable[[str, str], Path]) -> None:
    words = write(
        "mine/words.yaml",
        """
        derived:
          few:
            type: bool
            meaning: A call has few tokens.
            cases: [{when: {num_tokens: "<8"}, value: true}, {value: false}]
        """,
    )
    packaged = write("packaged/cuda.yaml", SMALL.replace('num_experts: "<=64"', "few: true")).parent
    rules = load_platform("cuda", [words.parent], packaged=packaged)
    selector = Selector(rules, {"device": "cuda", "compute_capability": (9, 0)})
    ranges = decide_by_num_tokens(selector, "unquantized", layer_facts(LAYER))
    assert [(r.last, r.decision.backend) for r in ranges] == [(7, "FAST"), (None, "SLOW")]


def test_requirements_of_kernels_count(small: MakeRules) -> None:
    rules = SMALL.replace('num_experts: "<=64"', 'num_tokens: "<=8"')
    ranges = decide_by_num_tokens(small(rules=rules), "unquantized", layer_facts(LAYER))
    assert [(r.last, r.decision.backend) for r in ranges] == [(8, "FAST"), (None, "SLOW")]


_BOUNDS = st.tuples(st.sampled_from([">=", ">", "<", "<="]), st.integers(1, 40))


@given(
    st.lists(_BOUNDS.map(lambda b: f"{b[0]}{b[1]}"), max_size=4, unique=True), st.integers(1, 50)
)
def test_every_call_lies_in_one_range_and_gets_its_decision(
    conditions: list[str], num_tokens: int
) -> None:
    selector = _selector(adjusted(*conditions) if conditions else SMALL)
    facts = layer_facts(LAYER)
    ranges = decide_by_num_tokens(selector, "unquantized", facts)
    (mine,) = [r for r in ranges if num_tokens in r]
    asked = selector.decide("unquantized", {**facts, "num_tokens": num_tokens})
    assert (mine.decision.backend, mine.decision.kernel) == (asked.backend, asked.kernel)
    assert ranges[0].first == 1
    assert ranges[-1].last is None


def _selector(text: str) -> Selector:
    from moe_rules.files.packaged import packaged_rules
    from moe_rules.files.validate import validate
    from moe_rules.files.yaml_source import parse_yaml, read_yaml
    from moe_rules.language.files import PlatformFile
    from moe_rules.language.link import link
    from moe_rules.language.parts import Part
    from moe_rules.language.word_files import VocabularyFile

    source = parse_yaml(text, "cuda.yaml")
    part = Part(source, validate(PlatformFile, source))
    words = read_yaml(packaged_rules() / "vocabulary.yaml")
    rules = link("cuda", [part], [(words, validate(VocabularyFile, words))], [text.encode()])
    return Selector(rules, {"device": "cuda", "compute_capability": (9, 0)})


def test_tokens_can_only_be_compared(small: MakeRules) -> None:
    with pytest.raises(RuleFileError, match="only compare it"):
        small(rules=with_section("    adjust: [{when: {num_tokens: 64}, first: [SLOW]}]"))
