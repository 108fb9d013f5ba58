"""Policies: what is proven holds of random deployments, what contradicts is decided so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_rules.analysis.difference import Answer, answer_of
from moe_rules.analysis.policies import Policy, policies_of
from moe_rules.analysis.proving import name_problems, prove
from moe_rules.files.problems import RuleFileError
from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.reading import vocabulary
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.fact_values import FactValue, parse_value
from moe_rules.vocabulary.facts import FACTS
from tests.analysis.comparing import decided
from tests.analysis.random_rules import BACKENDS, conditions, deployments, load, rule_files
from tests.analysis.test_difference import made_possible, possible
from tests.analysis.test_symbolic import FACT_NAMES, SLOW
from tests.conftest import SMALL


def policy(folder: Path, **said: Any) -> Policy:
    """One policy of a file."""
    path = folder / "ours.policy.yaml"
    path.write_text(yaml.safe_dump({"policies": [{"name": "ours", **said}]}))
    (found,) = policies_of(read_yaml(path), vocabulary())
    return found


def answer(rules: PlatformRules, facts: dict[str, FactValue]) -> Answer:
    return answer_of(decided(rules, "fp8", facts))


SAME_AS = [
    {"group_size": 32},
    {"moe_activation_override": "none"},
    {"use_ep": False},
    {"activation": "silu", "dp_size": 1},
    {"activation_key": "kFp8Dynamic128Sym"},
]


@settings(max_examples=15, suppress_health_check=[*SLOW, HealthCheck.function_scoped_fixture])
@given(
    rule_files(),
    conditions(),
    st.sampled_from(SAME_AS),
    st.lists(deployments(FACT_NAMES), min_size=10, max_size=10),
)
def test_the_same_with_other_facts(
    tmp_path: Path, file: dict, when: dict, same_as: dict, facts: list[dict]
) -> None:
    rules, ours = load(file), policy(tmp_path, when=when, same_as=same_as)
    values = {name: parse_value(FACTS[name], raw) for name, raw in same_as.items()}
    verdict = prove(ours, rules, "fp8")
    if verdict.witness is not None:
        witness = dict(verdict.witness)
        assert answer(rules, witness) == verdict.answer
        assert answer(rules, {**witness, **values}) == verdict.other
        assert verdict.answer != verdict.other
        return
    for one in map(made_possible, facts):
        completed = {**one, **derived(rules, one)}
        if ours.when.holds(completed) is True and possible({**one, **values}):
            assert verdict.met
            assert answer(rules, one) == answer(rules, {**one, **values})


@settings(max_examples=15, suppress_health_check=[*SLOW, HealthCheck.function_scoped_fixture])
@given(
    rule_files(),
    conditions(),
    st.sampled_from(BACKENDS),
    st.booleans(),
    st.lists(deployments(FACT_NAMES), min_size=10, max_size=10),
)
def test_what_always_or_never_comes_out(
    tmp_path: Path, file: dict, when: dict, backend: str, never: bool, facts: list[dict]
) -> None:
    rules = load(file)
    said: dict[str, Any] = {"never" if never else "always": {"backend": {"not": backend}}}
    verdict = prove(policy(tmp_path, when=when, **said), rules, "fp8")
    ours = policy(tmp_path, when=when, **said)
    if verdict.witness is not None:
        found = answer(rules, dict(verdict.witness))
        assert found == verdict.answer
        assert (found.backend != backend) is never
        return
    for one in map(made_possible, facts):
        if ours.when.holds({**one, **derived(rules, one)}) is True:
            assert verdict.met
            assert (answer(rules, one).backend != backend) is not never


def derived(rules: PlatformRules, facts: dict[str, FactValue]) -> dict[str, FactValue]:
    """The facts that follow from others, as the engine has them."""
    from moe_rules.engine.plan import specialise
    from moe_rules.engine.selection import _complete

    plan = specialise(rules, rules.oracles["fp8"], {}, ())
    plan.assumptions = []
    return {n: v for n, v in _complete(plan, dict(facts)).items() if n not in FACTS}


@pytest.fixture
def rules(tmp_path: Path) -> PlatformRules:
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged" / "cuda.yaml").write_text(SMALL)
    return load_platform("cuda", packaged=tmp_path / "packaged")


def test_a_policy_without_deployments_is_not_met(tmp_path: Path, rules: PlatformRules) -> None:
    impossible = {"use_ep": True, "ep_size": 1}
    ours = policy(tmp_path, when=impossible, never={"backend": "FAST"})
    assert not prove(ours, rules, "unquantized").met


def test_a_contradiction_is_as_usual_as_can_be(tmp_path: Path, rules: PlatformRules) -> None:
    ours = policy(tmp_path, when={"moe_backend": "auto"}, always={"backend": "FAST"})
    verdict = prove(ours, rules, "unquantized")
    assert verdict.witness is not None
    assert verdict.witness["num_experts"] == 128
    assert verdict.answer == Answer("SLOW", "SlowExperts")
    proven = policy(tmp_path, when={"num_experts": ">64"}, never={"kernel": "Fast*"})
    assert prove(proven, rules, "unquantized").proven


def test_names_that_no_rules_have(tmp_path: Path, rules: PlatformRules) -> None:
    for outcome in ({"backend": "FASST"}, {"kernel": ["Fst*"]}, {"not": {"kernel": "FastExpert"}}):
        (problem,) = name_problems(policy(tmp_path, never=outcome), {"cuda": rules})
        assert problem.location.file.endswith("ours.policy.yaml")
        assert problem.code in ("unknown-backend", "unknown-kernel")
    fine = policy(tmp_path, never={"backend": ["FAST", "none"], "kernel": "Slow*"})
    assert list(name_problems(fine, {"cuda": rules})) == []


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "exactly one of: always, never, same_as"),
        ({"always": {"backend": "A"}, "never": {"backend": "B"}}, "exactly one of"),
        ({"always": {"backends": "A"}}, "there is no fact 'backends'; did you mean 'backend'"),
        ({"never": {"error": "not_suported"}}, "did you mean 'not_supported'"),
        ({"when": {"num_expert": 1}, "never": {"error": "none"}}, "did you mean 'num_experts'"),
        ({"same_as": {"all2all": "none"}}, "there is no fact 'all2all' to state"),
        ({"same_as": {"num_experts": "many"}}, "num_experts cannot be 'many'"),
        ({"on": {"platform": "cudda"}, "never": {"error": "none"}}, "did you mean 'cuda'"),
        ({"on": {"oracle": ["fp9"]}, "never": {"error": "none"}}, "did you mean 'fp8'"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, said: dict[str, Any], message: str) -> None:
    with pytest.raises(RuleFileError, match=message):
        policy(tmp_path, **said)
