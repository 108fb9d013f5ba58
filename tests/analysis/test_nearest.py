"""The least change is what trying every deployment finds, and the engine then decides as wanted."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from moe_rules.analysis.compiled import compile_oracle
from moe_rules.analysis.nearest import Neighbours, least_changes, nearest
from moe_rules.analysis.questions import MISSING, Missing
from moe_rules.analysis.worlds import packaged_worlds
from moe_rules.conformance.cases import read_cases
from moe_rules.engine.selection import Result
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import load_machine
from moe_rules.selectors.errors import InvalidRequestError
from moe_rules.selectors.facts import layer_facts
from moe_rules.selectors.selector import Selector, select_backend
from moe_rules.vocabulary.fact_values import Fact, FactValue
from moe_rules.vocabulary.facts import FACTS, REQUEST_DEFAULTS
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey, Scale
from tests.analysis.comparing import decided
from tests.analysis.random_rules import BACKENDS, TESTS, deployments, load, rule_files
from tests.conftest import MakeRules
from tests.engine.layers import layer

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
FACT_NAMES = [name for name in TESTS if name in FACTS] + ["is_lora_enabled", "pcp_size", "sp_size"]
MAX_POINTS = 3000
FIXED = packaged_worlds().fixed
SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
Cost = tuple[float, float]
"""How many facts change that a user cannot change, and how many others."""


def brute_force(
    rules: PlatformRules, facts: dict[str, FactValue], backend: str
) -> tuple[int, int] | None:
    """The least cost of a deployment with that backend, of all combinations of classes."""
    compiled = compile_oracle([rules], "fp8", deployment=facts)
    space = compiled.space
    assume(math.prod(space.diagrams.sizes) <= MAX_POINTS)
    # Facts that are compared have more ways into a class than this tries.
    assume(all(len(variable.facts) == 1 for variable in space.variables))
    here = space.point(facts)
    selector = Selector(rules, {}, unknown=())
    costs = []
    for numbers in itertools.product(*map(range, space.diagrams.sizes)):
        point = dict(enumerate(numbers))
        changed = dict(facts)
        moved = []
        for level, variable in enumerate(space.variables):
            if point[level] != here[level]:
                name, value = variable.facts[0], variable.classes[point[level]][0][0]
                moved.append(name)
                changed.pop(name, None)
                if value is not MISSING:
                    changed[name] = value
        if space.diagrams.at(compiled.possible, point) is not True:
            continue
        if selector.decide("fp8", changed).backend == backend:
            fixed = sum(name in FIXED for name in moved)
            costs.append((fixed, len(moved) - fixed))
    return min(costs, default=None)


@settings(max_examples=15, deadline=None, suppress_health_check=SLOW)
@given(rule_files(), deployments(FACT_NAMES), st.sampled_from(BACKENDS))
def test_no_deployment_is_nearer(file: dict, given_facts: dict, backend: str) -> None:
    rules = load(file)
    facts = {**REQUEST_DEFAULTS, "device": "cuda", **given_facts}
    ways = nearest(rules, "fp8", facts, lambda result: result.backend == backend)
    least = brute_force(rules, facts, backend)
    costs = {
        (fixed := sum(change.fixed for change in changes), len(changes) - fixed) for changes in ways
    }
    assert costs == (set() if least is None else {least})


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(rule_files(), deployments(FACT_NAMES), st.sampled_from(BACKENDS))
def test_the_engine_decides_as_wanted(file: dict, given_facts: dict, backend: str) -> None:
    rules = load(file)
    facts = {**REQUEST_DEFAULTS, "device": "cuda", **given_facts}
    for changes in nearest(rules, "fp8", facts, lambda result: result.backend == backend):
        changed = dict(facts)
        for change in changes:
            assert changed.pop(change.fact, MISSING) == change.before
            if change.value is not MISSING:
                changed[change.fact] = change.value
        assert decided(rules, "fp8", changed).backend == backend


def test_of_numbers_that_will_do_the_nearest_is_said(small: MakeRules) -> None:
    machine = {"device": "cuda", "compute_capability": (9, 0)}
    facts = {**REQUEST_DEFAULTS, **machine, **layer_facts(layer(num_experts=100))}
    facts |= {"weight_key": None, "activation_key": None}
    rules = small().rules
    (changes,) = nearest(rules, "unquantized", facts, lambda result: result.backend == "FAST")
    assert list(map(str, changes)) == ["num_experts: 64 instead of 100"]


def test_packaged_backends_are_reached_with_what_is_said() -> None:
    rules = load_platform("cuda")
    layer = FusedMoEConfig(
        num_experts=128, experts_per_token=8, hidden_dim=2048, intermediate_size=768
    )
    facts = {
        **REQUEST_DEFAULTS,
        **load_machine("h100").facts(),
        **layer_facts(layer),
        "weight_key": None,
        "activation_key": None,
    }
    reached = 0
    for backend in rules.oracles["unquantized"].backends:
        ways = nearest(rules, "unquantized", facts, lambda result, b=backend: result.backend == b)
        for changes in ways:
            changed = {**facts, **{change.fact: change.value for change in changes}}
            assert decided(rules, "unquantized", changed).backend == backend
            reached += 1
    assert reached > 3


ODD: dict[str, list[FactValue]] = {
    "int": [1, 12345],
    "float": [0.0, -1.0],
    "string": ["odd"],
    "bool": [True],
    "switch": [True],
    "version": [(99, 9)],
    "quant_key": [QuantKey("odd", Scale("odd", True, (3, 5)))],
}
"""Values by the type of a fact, most of which no deployment should have."""


def odd_values(fact: Fact) -> list[FactValue]:
    """Those that a fact may have all the same."""
    return [*ODD.get(fact.type, fact.values), *([None] if fact.nullable else [])]


def odd_deployments(platform: str, count: int) -> Iterator[tuple[str, dict[str, FactValue]]]:
    """Recorded deployments, each with some facts unknown and some of odd values."""
    rng = random.Random(0)
    cases = [case for path in SAMPLES.glob(f"{platform}*") for case in read_cases(path)]
    for case in rng.sample(cases, count):
        facts = dict(case.facts)
        for name in rng.sample(sorted(facts.keys() - {"device", *NEEDED}), 8):
            if rng.random() < 0.4:
                del facts[name]
            else:
                facts[name] = rng.choice(odd_values(FACTS[name]))
        yield case.oracle, facts


NEEDED = ("moe_backend", "activation_key")
"""What the engine does not decide without."""


def cheaper(
    rules: PlatformRules, oracle: str, facts: dict[str, FactValue], backend: str, than: Cost
) -> dict[str, FactValue | Missing] | None:
    """Changes of at most two facts that are cheaper and make a backend win, of all there are."""
    variables = compile_oracle([rules], oracle, deployment=facts).space.variables
    pools = {
        name: [value for value in dict.fromkeys(variable.values(name)) if value != facts.get(name)]
        for variable in variables
        for name in variable.facts
    }
    worlds = [one.when for one in packaged_worlds().impossible]
    worlds = [when for when in worlds if not pools.keys().isdisjoint(when.fact_names())]
    selector = Selector(rules, {}, unknown=())
    for number in range(3):
        for names in itertools.combinations(pools, number):
            fixed = sum(name in FIXED for name in names)
            if (fixed, number - fixed) >= than:
                continue
            for values in itertools.product(*(pools[name] for name in names)):
                changes = dict(zip(names, values, strict=True))
                both = {**facts, **changes}
                changed = {n: value for n, value in both.items() if not isinstance(value, Missing)}
                if any(when.holds(changed) is True for when in worlds):
                    continue
                if selector.decide(oracle, changed).backend == backend:
                    return changes
    return None


def test_nothing_is_nearer_in_the_packaged_tables() -> None:
    rules = load_platform("xpu")
    asked = 0
    for oracle, facts in odd_deployments("xpu", 30):
        for backend in rules.oracles[oracle].backends:
            ways = nearest(rules, oracle, facts, lambda result, b=backend: result.backend == b)
            costs = {
                (sum(change.fixed for change in way), sum(not change.fixed for change in way))
                for way in ways
            }
            least = min(costs, default=(math.inf, 0))
            found = cheaper(rules, oracle, facts, backend, least)
            assert found is None, (oracle, facts, backend, least)
            asked += 1
    assert asked > 40


def test_deployments_that_share_changes_have_them_by_themselves() -> None:
    machine = load_machine("arm").facts()
    rules = load_platform("cpu")

    def serves(result: Result) -> bool:
        return result.error is None

    shared = Neighbours(rules, "int_wna16", serves)
    found = []
    for size, experts, routing in itertools.product(
        (512, 768, 1000), (8, 128), ("Renormalize", "DeepSeekV3")
    ):
        moe = FusedMoEConfig(
            num_experts=experts,
            experts_per_token=2,
            hidden_dim=2048,
            intermediate_size=size,
            routing_method=routing,
        )
        keys: dict[str, FactValue] = {"weight_key": None, "activation_key": None, "group_size": 128}
        facts = {**REQUEST_DEFAULTS, **machine, **layer_facts(moe), **keys}
        ways = shared.nearest(facts)
        assert ways == nearest(rules, "int_wna16", facts, serves)
        found.append(ways)
    assert len(shared._known) < len(found)
    assert found[0] != found[1]


def test_what_looks_like_a_slip_is_mended_first() -> None:
    """Of changes that cost the same some are said; the name that was meant is one of them."""
    layer = FusedMoEConfig(8, 2, 2048, 768, moe_backend="tritn")
    with pytest.raises(InvalidRequestError) as caught:
        select_backend("unquantized", layer, machine="h100", environ={})
    first, *others = least_changes(caught.value.decision)
    assert [str(change) for change in first] == ["moe_backend: triton instead of tritn"]
    assert "moe_backend: auto instead of tritn" in [str(change) for (change,) in others]
