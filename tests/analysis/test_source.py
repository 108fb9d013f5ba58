"""A diagram as Python source decides every deployment as the diagram and the engine do."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_rules.analysis.classes import Space, UnclassifiedError
from moe_rules.analysis.questions import MISSING, Questions, Seen
from moe_rules.analysis.source import Function, as_function
from moe_rules.analysis.symbolic import compile_selection
from moe_rules.conformance.cases import case_files, read_cases
from moe_rules.conformance.compare import agrees_with
from moe_rules.engine.selection import Result
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.facts import FACTS, PER_CALL, REQUEST_DEFAULTS
from moe_rules.vocabulary.table_names import PLATFORMS
from tests.analysis.comparing import decided
from tests.analysis.random_rules import TESTS, deployments, load, rule_files

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
FACT_NAMES = [n for n in TESTS if n in FACTS and n not in PER_CALL]
FACT_NAMES += ["is_lora_enabled", "pcp_size", "sp_size"]


def function_of(rules: PlatformRules, oracle: str, constants: Mapping[str, Seen]) -> Function:
    """An oracle as a function of a mapping of facts."""
    questions = Questions({**dict.fromkeys(PER_CALL, MISSING), **constants})
    questions.add_oracle(rules, oracle)
    space = Space(questions)
    results = compile_selection(space, rules, rules.oracles[oracle]).results
    return as_function(space, results, "facts", {name: f"facts[{name!r}]" for name in FACTS})


@settings(max_examples=40, suppress_health_check=SLOW)
@given(rule_files(), st.lists(deployments(FACT_NAMES), min_size=8, max_size=8))
def test_random_rules_decide_random_deployments_alike(file: dict, facts: list[dict]) -> None:
    rules = load(file)
    function = function_of(rules, "fp8", {"device": "cuda"})
    for one in facts:
        supplied = {**REQUEST_DEFAULTS, "device": "cuda", **one}
        assert function.call(supplied) == decided(rules, "fp8", supplied)


def test_every_recorded_decision() -> None:
    rules = {platform: load_platform(platform) for platform in PLATFORMS}
    functions: dict[tuple[str, str], Function] = {}
    notes: list[str] = []
    compared = 0
    for path in case_files([SAMPLES]):
        for case in read_cases(path):
            facts = case.facts
            if case.reference_crashed or case.unreadable:
                continue
            key = str(facts["device"]), case.oracle
            if case.oracle not in rules[key[0]].oracles:
                continue
            if key not in functions:
                functions[key] = function_of(rules[key[0]], case.oracle, {"device": key[0]})
            agrees_with(case.expect, functions[key].call(facts), notes)
            compared += 1
    assert notes == []
    assert compared > 4000


SMALL: dict[str, Any] = {
    "platform": "cuda",
    "oracles": {
        "fp8": {
            "priority": ["ONE", "TWO"],
            "backends": {
                "ONE": {
                    "kernels": ["AExperts"],
                    "requires": {"hidden_dim": {"multiple_of": 128}, "activation": "silu"},
                },
                "TWO": {"kernels": ["BExperts"], "requires": {"num_experts": ">8 <=64"}},
            },
            "otherwise": {"error": "not_supported"},
        }
    },
    "kernels": {"AExperts": {}, "BExperts": {}},
}

SMALL_FACTS = {"hidden_dim", "activation", "num_experts"}


def test_the_source_says_what_the_rules_do() -> None:
    constants = {name: MISSING for name in FACTS if name not in SMALL_FACTS}
    function = function_of(load(SMALL), "fp8", {**constants, "moe_backend": "auto"})
    assert "if hidden_dim % 128" in function.text
    assert "num_experts > 8 and num_experts <= 64" in function.text
    assert "return auto_ONE_AExperts" in function.text
    facts = {"hidden_dim": 256, "activation": "silu", "num_experts": 9}
    assert function.call(facts) == Result("auto", "ONE", "AExperts")
    assert function.call({**facts, "hidden_dim": 64}) == Result("auto", "TWO", "BExperts")
    failed = function.call({"hidden_dim": 64, "activation": "silu", "num_experts": 8})
    assert failed.error == "not_supported"


def test_only_what_lies_on_the_way_is_read() -> None:
    constants = {name: MISSING for name in FACTS if name not in SMALL_FACTS}
    function = function_of(load(SMALL), "fp8", {**constants, "moe_backend": "auto"})

    class Noted(dict[str, object]):
        def __getitem__(self, name: str) -> object:
            read.append(name)
            return super().__getitem__(name)

    read: list[str] = []
    function.call(Noted(hidden_dim=64, activation="gelu", num_experts=8))
    assert read == ["num_experts", "hidden_dim"]


def test_what_several_lead_to_is_written_once() -> None:
    rules = load_platform("cuda")
    function = function_of(rules, "unquantized", {"device": "cuda"})
    names = [node.name for node in ast.walk(ast.parse(function.text)) if hasattr(node, "name")]
    assert len(names) == len(set(names)) > 10


def test_unknown_values_have_no_source() -> None:
    questions = Questions({"device": "cuda"}, {"hidden_dim"})
    rules = load(SMALL)
    questions.add_oracle(rules, "fp8")
    space = Space(questions)
    results = compile_selection(space, rules, rules.oracles["fp8"]).results
    with pytest.raises(UnclassifiedError, match="hidden_dim may be unknown"):
        as_function(space, results, "facts", {name: f"facts[{name!r}]" for name in FACTS})


def test_a_number_that_an_assumption_compares_with_is_told_apart() -> None:
    backend = {
        "kernels": ["AExperts"],
        "assume": {"group_size": 48},
        "requires": {"hidden_dim": {"multiple_of": "group_size"}},
    }
    oracle = {**SMALL["oracles"]["fp8"], "priority": ["ONE"], "backends": {"ONE": backend}}
    rules = load({**SMALL, "oracles": {"fp8": oracle}, "kernels": {"AExperts": {}}})
    constants = {name: MISSING for name in FACTS if name not in ("hidden_dim", "moe_backend")}
    function = function_of(rules, "fp8", {**constants, "moe_backend": "auto"})
    assert function.call({"hidden_dim": 96}).backend == "ONE"
    assert function.call({"hidden_dim": 95}).backend is None
