"""Conditions: three-valued truth, failures, folding, and their agreement with each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.files.yaml_source import parse_yaml
from moe_rules.language.conditions import ALWAYS, NEVER, UNKNOWN, Condition, Constant
from moe_rules.language.parse import Parser
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

GROUPED = 'weight_key: {dtype: [$blocks], scale: {rows: 1, columns: ">0"}, scale2: none}'
SETS = {"gated": ["silu", "gelu"], "blocks": ["uint4", "uint4b8"]}


def condition(text: str) -> Condition:
    source = parse_yaml(text, "rules.yaml")
    parser = Parser(source, FACTS, SETS)
    parsed = parser.condition(source.data, ())
    assert parser.problems == []
    return parsed


def problems(text: str) -> list[str]:
    source = parse_yaml(text, "rules.yaml")
    parser = Parser(source, FACTS, SETS)
    parser.condition(source.data, ())
    return [str(problem) for problem in parser.problems]


@pytest.mark.parametrize(
    ("text", "facts", "holds"),
    [
        ("activation: silu", {"activation": "silu"}, True),
        ("activation: [silu, relu2]", {"activation": "gelu"}, False),
        ("activation: $gated", {"activation": "gelu"}, True),
        ("activation: [$gated, relu2]", {"activation": "relu2"}, True),
        ("activation: {not: $gated}", {"activation": "gelu"}, False),
        ('compute_capability: "9.0"', {"compute_capability": (9, 0)}, True),
        ('compute_capability: "10.*"', {"compute_capability": (10, 3)}, True),
        ('compute_capability: "10.*"', {"compute_capability": (1, 0)}, False),
        ('compute_capability: ">=8.9"', {"compute_capability": (10, 0)}, True),
        ('compute_capability: ">=8.9 <12.0"', {"compute_capability": (12, 0)}, False),
        ('compute_capability: ">=8.9"', {"compute_capability": None}, False),
        ('compute_capability: ["9.0", "10.*"]', {"compute_capability": (10, 3)}, True),
        ("gfx: gfx95*", {"gfx": "gfx950"}, True),
        ("gfx: gfx95*", {"gfx": "gfx942"}, False),
        ("gfx: none", {"gfx": None}, True),
        ('num_experts: "<=992"', {"num_experts": 993}, False),
        ("hidden_dim: {multiple_of: 128}", {"hidden_dim": 256}, True),
        (
            "intermediate_size: {multiple_of: group_size}",
            {"intermediate_size": 100, "group_size": 32},
            False,
        ),
        ("group_size: {multiple_of: 4}", {"group_size": None}, False),
        ("swiglu_limit: none", {"swiglu_limit": 7.0}, False),
        ("swiglu_alpha: 1.702", {"swiglu_alpha": 1.7020000000001}, True),
        ("VLLM_USE_DEEP_GEMM: true", {"VLLM_USE_DEEP_GEMM": None}, True),
        ("VLLM_USE_DEEP_GEMM: set", {"VLLM_USE_DEEP_GEMM": None}, False),
        ("VLLM_USE_DEEP_GEMM: set", {"VLLM_USE_DEEP_GEMM": False}, True),
        ("VLLM_BATCH_INVARIANT: false", {"VLLM_BATCH_INVARIANT": None}, True),
        ("VLLM_BATCH_INVARIANT: unset", {"VLLM_BATCH_INVARIANT": None}, True),
        ("{}", {}, True),
        ("any: [{use_ep: true}, {ep_size: 1}]", {"use_ep": False, "ep_size": 1}, True),
        ("any: [{use_ep: true}, {ep_size: 1}]", {"ep_size": 1}, True),
        ("any: [{use_ep: true}, {ep_size: 1}]", {"ep_size": 2}, None),
        ("not: {use_ep: true}", {"use_ep": True}, False),
        ("not: {use_ep: true}", {}, None),
        ("{use_ep: true, ep_size: 1}", {"ep_size": 2}, False),
        ("{use_ep: true, ep_size: 1}", {"ep_size": 1}, None),
        ("activation: any", {}, True),
        (GROUPED, {"weight_key": NAMED_KEYS["kInt4Static32"]}, True),
        (GROUPED, {"weight_key": NAMED_KEYS["kInt4Static"]}, False),
        (GROUPED, {"weight_key": NAMED_KEYS["kNvfp4Static"]}, False),
        (
            "weight_key: {scale2: {static: false}}",
            {"weight_key": NAMED_KEYS["kNvfp4Static"]},
            False,
        ),
        ("weight_key: {symmetric: false}", {"weight_key": NAMED_KEYS["kInt4StaticAsym"]}, True),
    ],
)
def test_truth(text: str, facts: dict[str, FactValue], holds: bool | None) -> None:
    assert condition(text).holds(facts) is holds


def test_a_pattern_of_a_key_is_said_as_it_is_written() -> None:
    assert condition(GROUPED).words() == GROUPED


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("activaton: silu", "no fact 'activaton'; did you mean 'activation'?"),
        ("activation: sliu", "cannot be 'sliu'; did you mean 'silu'?"),
        ("activation: $gatde", "no set '$gatde'; did you mean 'gated'?"),
        ("activation: []", "an empty list"),
        ('activation: ">=1"', "has no order"),
        ('num_experts: "<=many"', "'many' is not a number"),
        ('num_experts: "<= 5 apples"', "is not a comparison"),
        ("num_experts: lots", "it is an integer"),
        ('compute_capability: "nine"', "not a version"),
        ("hidden_dim: {multiple_off: 3}", "'multiple_off' is no test"),
        ("hidden_dim: {multiple_of: activation}", "cannot be compared"),
        ("hidden_dim: {same_as: hiden_dim}", "did you mean 'hidden_dim'?"),
        ("weight_key: kFp8StaticTensorSim", "did you mean 'kFp8StaticTensorSym'?"),
        ("weight_key: {dtyp: fp8_e4m3}", "'dtyp' is no part of a quantization key"),
        ("weight_key: {dtype: [int8, 4]}", "dtype is the name of one, not 4"),
        ("weight_key: {dtype: $blokcs}", "no set '$blokcs'; did you mean 'blocks'?"),
        ("weight_key: {symmetric: 7}", "symmetric is true or false, not 7"),
        ("weight_key: {scale: fp32}", "a scale is a mapping"),
        ("weight_key: {scale: {static: maybe}}", "static is true or false, not maybe"),
        ("weight_key: {scale: {row: 1}}", "did you mean 'rows'?"),
        ('weight_key: {scale: {rows: ">1.5"}}', "'1.5' is not a whole number"),
        ('weight_key: {scale: {rows: "x>3"}}', "'x>3' is not a comparison"),
        ("weight_key: {scale: {columns: 1.5}}", "columns is a whole number or a comparison"),
        ("weight_key: {scale2: nonsense}", "a scale is a mapping"),
        ("gfx: gfx95x*", "no value of gfx begins with"),
        ("use_ep: none", "cannot be none"),
        ("any: {use_ep: true}", "takes a list"),
        ("is: nothing", "no condition 'nothing'"),
        ("[]", "a condition is a mapping"),
    ],
)
def test_misreadings_are_named(text: str, fragment: str) -> None:
    (problem,) = problems(text)
    assert fragment in problem
    assert problem.startswith("rules.yaml:1:")


def test_every_problem_of_a_condition_is_found() -> None:
    assert len(problems("activaton: silu\nnum_experts: lots\nuse_ep: maybe\n")) == 3


def test_failure_says_seen_wanted_and_place() -> None:
    (failure,) = condition("use_ep: true\nnum_experts: '<=992'").failures(
        {"use_ep": True, "num_experts": 1024}
    )
    assert (failure.code, failure.fact, failure.seen) == ("shape", "num_experts", "1024")
    assert failure.wanted == "<=992"
    assert str(failure.location) == "rules.yaml:2:1"


def test_failed_any_lists_what_failed_in_each_alternative() -> None:
    facts: dict[str, FactValue] = {"use_ep": False, "ep_size": 4}
    (failure,) = condition("any: [{use_ep: true}, {ep_size: 1}]").failures(facts)
    assert [[inner.fact for inner in branch] for branch in failure.alternatives] == [
        ["use_ep"],
        ["ep_size"],
    ]


# Properties ---------------------------------------------------------------------------------------

_CLAUSES = [
    "use_ep: true",
    "ep_size: 1",
    'num_experts: "<=8"',
    "hidden_dim: {multiple_of: num_experts}",
    "activation: [silu, gelu]",
]
_FACTS: dict[str, st.SearchStrategy[Any]] = {
    "use_ep": st.booleans(),
    "ep_size": st.integers(1, 2),
    "num_experts": st.integers(1, 16),
    "hidden_dim": st.integers(1, 32),
    "activation": st.sampled_from(["silu", "gelu", "relu2"]),
}


def _trees() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(_CLAUSES).map(lambda clause: "{" + clause + "}")
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda p: f"{{any: [{', '.join(p)}]}}"),
            st.lists(inner, min_size=1, max_size=3).map(lambda p: f"{{all: [{', '.join(p)}]}}"),
            inner.map(lambda part: f"{{not: {part}}}"),
        ),
        max_leaves=8,
    )


_assignments = st.fixed_dictionaries({}, optional=_FACTS)
_full_assignments = st.fixed_dictionaries(_FACTS)


@given(_trees(), _assignments)
def test_failures_are_listed_exactly_where_a_condition_fails(
    tree: str, facts: dict[str, FactValue]
) -> None:
    parsed = condition(tree)
    assert bool(parsed.failures(facts)) is (parsed.holds(facts) is False)


@given(_trees(), _full_assignments, st.sets(st.sampled_from(sorted(_FACTS))))
def test_folding_known_facts_keeps_the_truth(
    tree: str, facts: dict[str, FactValue], names: set[str]
) -> None:
    parsed = condition(tree)
    folded = parsed.fold({name: facts[name] for name in names}, frozenset())
    assert folded.holds(facts) is parsed.holds(facts)


@given(_trees(), _full_assignments)
def test_predicates_agree_with_truth(tree: str, facts: dict[str, FactValue]) -> None:
    parsed = condition(tree)
    assert parsed.predicate(unknown=True)(facts) is parsed.holds(facts)


@given(_trees(), _full_assignments, st.sets(st.sampled_from(sorted(_FACTS))))
def test_unknown_facts_abstain(tree: str, facts: dict[str, FactValue], unknown: set[str]) -> None:
    """Optimistic and pessimistic predicates bracket every completion of the unknown facts."""
    folded = condition(tree).fold({}, frozenset(unknown))
    value = condition(tree).holds(facts)
    if value:
        assert folded.predicate(unknown=True)(facts)
    else:
        assert not folded.predicate(unknown=False)(facts)


@given(_trees(), _full_assignments)
def test_folding_every_fact_leaves_a_constant(tree: str, facts: dict[str, FactValue]) -> None:
    assert isinstance(condition(tree).fold(facts, frozenset()), Constant)


def test_constants_fold_to_themselves() -> None:
    for constant in (ALWAYS, NEVER, UNKNOWN):
        assert isinstance(constant, Constant)
        assert constant.fold({}, frozenset()) is constant
