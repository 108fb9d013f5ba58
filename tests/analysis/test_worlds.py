"""What deployments cannot be: checked against recorded ones, and in its own form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.analysis.compiled import compile_oracle
from moe_rules.analysis.worlds import packaged_worlds, usual_values, worlds_of
from moe_rules.conformance.cases import case_files, read_cases
from moe_rules.files.problems import RuleFileError
from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import named_machines
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.table_names import PLATFORMS

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, FactValue]]:
    return [case.facts for path in case_files([SAMPLES]) for case in read_cases(path)]


@pytest.mark.parametrize("number", range(len(packaged_worlds().impossible)))
def test_recorded_deployments_are_possible(
    number: int, recorded: list[dict[str, FactValue]]
) -> None:
    one = packaged_worlds().impossible[number]
    found = [facts for facts in recorded if one.when.holds(facts) is True]
    if one.simulated:
        assert found, f"{one.reason.location}: no recorded deployment needs `simulated`"
    else:
        assert found == [], str(one.reason.location)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_usual_deployment_is_possible(platform: str) -> None:
    rules = load_platform(platform)
    for oracle in rules.oracles:
        compiled = compile_oracle([rules], oracle)
        space = compiled.space
        point = space.diagrams.point(compiled.possible)
        assert space.diagrams.at(compiled.possible, space.point(space.facts(point)))
        assert compiled.witness(space.diagrams.true).keys() <= compiled.asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("impossible: [{when: {num_expert: 1}, because: x}]\nusual: {}", "'num_expert'"),
        ("impossible: [{when: {num_experts: 1}}]\nusual: {}", "'because' is missing"),
        ("impossible: []\nusual: {activation: sliu}", "did you mean 'silu'"),
        ("impossible: []\nusual: {activatio: silu}", "there is no fact 'activatio'"),
    ],
)
def test_what_is_wrong_in_a_file(
    write: Callable[[str, str], Path], text: str, message: str
) -> None:
    source = read_yaml(write("worlds.yaml", text))
    with pytest.raises(RuleFileError, match=message):
        worlds_of(source)


def test_values_that_machines_have_are_usual() -> None:
    assert usual_values("cuda")["compute_capability"][0] == (9, 0)
    assert (12, 0) in usual_values("cuda")["compute_capability"]
    assert usual_values("rocm")["aiter"] == (True,)


@pytest.mark.parametrize("preset", ["full", "bare"])
def test_named_machines_can_be(preset: str) -> None:
    for named in named_machines().values():
        facts = named.machine(preset).facts()
        met = [one for one in packaged_worlds().impossible if one.when.holds(facts) is True]
        assert not met, (named, met)
