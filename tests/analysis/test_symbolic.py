"""The compiled form decides every deployment as the engine does."""

from __future__ import annotations

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from moe_rules.analysis.compiled import compile_oracle
from moe_rules.analysis.questions import MISSING
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactError
from moe_rules.vocabulary.facts import FACTS
from tests.analysis.comparing import decided
from tests.analysis.random_rules import TESTS, deployments, load, rule_files

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
FACT_NAMES = [name for name in TESTS if name in FACTS] + ["is_lora_enabled", "pcp_size", "sp_size"]


@settings(max_examples=25, suppress_health_check=SLOW)
@given(rule_files(), st.lists(deployments(FACT_NAMES), min_size=8, max_size=8))
def test_random_rules_decide_random_deployments_alike(file: dict, facts: list[dict]) -> None:
    rules = load(file)
    compiled = compile_oracle([rules], "fp8")
    for one in facts:
        given_facts = {"device": "cuda", **one}
        assert compiled.selections[0].result(given_facts) == decided(rules, "fp8", given_facts)


@settings(max_examples=25, suppress_health_check=SLOW)
@given(rule_files(), deployments(FACT_NAMES), st.sets(st.sampled_from(FACT_NAMES), max_size=5))
def test_deployments_that_lack_facts_are_decided_alike(
    file: dict, facts: dict, lacking: set[str]
) -> None:
    rules = load(file)
    known = {"device": "cuda", **facts}
    known = {name: value for name, value in known.items() if name not in lacking}
    try:
        wanted = decided(rules, "fp8", known)
    except FactError:  # no rule can do without it
        reject()
    compiled = compile_oracle([rules], "fp8", deployment=known)
    assert compiled.selections[0].result(known) == wanted


@settings(max_examples=25, suppress_health_check=SLOW)
@given(rule_files(), deployments(FACT_NAMES), st.sets(st.sampled_from(FACT_NAMES), max_size=8))
def test_what_is_constant_is_decided_alike(file: dict, facts: dict, constant: set[str]) -> None:
    rules = load(file)
    known = {"device": "cuda", **facts}
    constants = {n: value for n, value in known.items() if n in constant}
    others = {n: value for n, value in known.items() if n not in constant}
    found = Selector(rules, constants, unknown=()).decide("fp8", others)
    assert found.result == decided(rules, "fp8", known)


@settings(max_examples=15, suppress_health_check=SLOW)
@given(rule_files(), st.data())
def test_all_members_of_classes_are_decided_alike(file: dict, data: st.DataObject) -> None:
    rules = load(file)
    compiled = compile_oracle([rules], "fp8")
    space = compiled.space
    for _ in range(5):
        point = {
            level: data.draw(st.integers(0, len(variable.classes) - 1))
            for level, variable in enumerate(space.variables)
        }
        result = space.diagrams.at(compiled.selections[0].results, point)
        for _ in range(3):
            facts = {"device": "cuda"}
            for level, variable in enumerate(space.variables):
                values = data.draw(st.sampled_from(variable.classes[point[level]]))
                known = zip(variable.facts, values, strict=True)
                facts |= {name: value for name, value in known if value is not MISSING}
            located = space.point(facts)
            assert {level: located[level] for level in point} == point
            assert decided(rules, "fp8", facts) == result
