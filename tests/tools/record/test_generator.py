"""Cases are made of what rules ask and of the vocabulary: reproducible, possible, and enough."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from moe_rules.analysis.worlds import packaged_worlds
from moe_rules.conformance.cases import Case
from tools.record.deployments import Deployments
from tools.record.generator import cases_of, rule_sets
from tools.record.machines import machines
from tools.record.places import CHECKPOINTS, ORACLES

MACHINES = ("cuda-sm90", "rocm-gfx950", "cpu-arm", "tpu")
COUNT = 60


def made(machine: str, seed: int = 0, *oracles: str, count: int = COUNT) -> list[dict[str, Any]]:
    return list(cases_of(machines()[machine], machine, count, seed, oracles))


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    return [case for machine in MACHINES for case in made(machine)]


def parsed(case: dict[str, Any]) -> Case:
    """The case as conformance reads it, with an answer that nobody gave."""
    expect = {"outcome": "error", "error_type": "", "error_message": ""}
    seen = {"tried": [], "not_reached": [], "priority": None}
    return Case.parse({**case, "expect": {**expect, **seen}}, "here")


def test_a_seed_makes_the_same_cases_and_another_one_others() -> None:
    first = made("xpu", 1, "fp8")
    assert first == made("xpu", 1, "fp8")
    other = {case["id"] for case in made("xpu", 2, "fp8")}
    assert len({case["id"] for case in first} & other) < COUNT / 2


def test_every_oracle_gets_as_many_as_asked_for_and_none_twice(
    cases: list[dict[str, Any]],
) -> None:
    assert len({case["id"] for case in cases}) == len(cases)
    count = Counter((case["platform"]["name"], case["oracle"]) for case in cases)
    assert count == {(p, o): COUNT for p in MACHINES for o in ORACLES}
    assert {case["origin"] for case in cases} == {"grid", "random", "flip"}


def test_cases_are_read_back_and_possible(cases: list[dict[str, Any]]) -> None:
    entries = [one for one in packaged_worlds().impossible if not one.simulated]
    for case in cases:
        read = parsed(case)
        facts = {**read.constants, **read.request}
        assert not [e.reason.text for e in entries if e.when.holds(facts) is True], case


def test_an_oracle_is_given_what_it_takes(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        takes = ORACLES[case["oracle"]].takes
        assert set(case["options"]) == set(takes) - {"weight_key", "activation_key"}
        for key in ("weight", "activation"):
            assert f"{key}_key" in takes or case[key] is None
        checkpoint = case["options"].get("quant_config")
        if checkpoint:
            stated = set(CHECKPOINTS[checkpoint["kind"]][1])
            assert checkpoint.keys() - {"kind"} <= stated
            assert stated - checkpoint.keys() <= {"group_size", "actorder"}


@pytest.mark.parametrize(
    ("name", "oracle"),
    [("cuda-sm90", "fp8"), ("rocm-gfx942", "mxfp4"), ("cpu-x86", "unquantized")],
)
def test_every_result_of_the_rules_is_among_the_cases(name: str, oracle: str) -> None:
    machine = machines()[name]
    deployments = Deployments(oracle, machine, rule_sets(machine.device))
    usual = (deployments.usual_in(region) for region in deployments.regions().values())
    results = {deployments.result(facts) for facts in usual}
    assert len(results) >= 5
    cases = map(parsed, made(name, 0, oracle, count=300))
    assert results <= {deployments.result({**one.constants, **one.request}) for one in cases}


def test_a_flip_differs_from_a_base_in_what_it_names() -> None:
    cases = made("cuda-sm90", 0, "unquantized", count=90)
    flips = [case for case in cases if case["origin"] == "flip"]
    assert len({case["tags"]["fact"] for case in flips}) > 5


def test_facts_that_no_rule_asks_differ_as_well() -> None:
    machine = machines()["cuda-sm90"]
    asked = Deployments("w4a8", machine, rule_sets("cuda")).space.level
    layers = [case["moe"] for case in made("cuda-sm90", 0, "w4a8", count=200)]
    differing = {name for name in layers[0] if len({str(layer[name]) for layer in layers}) > 1}
    assert len(differing - asked.keys() - {"parallel"}) > 3


def test_where_releases_differ_is_asked() -> None:
    machine = machines()["cpu-x86-amx"]
    deployments = Deployments("int8", machine, rule_sets("cpu"))
    cases = map(parsed, made("cpu-x86-amx", 0, "int8", count=60))
    results = [deployments.result({**one.constants, **one.request}) for one in cases]
    assert sum(len(set(one)) > 1 for one in results) >= 5
