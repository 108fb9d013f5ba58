"""The least change is what trying every deployment finds, and the engine then decides as wanted."""

from __future__ import annotations

import itertools
import math

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from moe_rules.analysis.compiled import compile_oracle
from moe_rules.analysis.nearest import nearest
from moe_rules.analysis.questions import MISSING
from moe_rules.analysis.worlds import packaged_worlds
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import load_machine
from moe_rules.selectors.selector import layer_facts
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS, REQUEST_DEFAULTS
from moe_rules.vocabulary.layer import FusedMoEConfig
from tests.analysis.comparing import decided
from tests.analysis.random_rules import BACKENDS, TESTS, deployments, load, rule_files

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
FACT_NAMES = [name for name in TESTS if name in FACTS] + ["is_lora_enabled", "pcp_size", "sp_size"]
MAX_POINTS = 3000
FIXED = packaged_worlds().fixed


def brute_force(
    rules: PlatformRules, facts: dict[str, FactValue], backend: str
) -> tuple[int, int] | None:
    """The least cost of a deployment with that backend, of all combinations of classes."""
    compiled = compile_oracle([rules], "fp8", may_lack=facts)
    space = compiled.space
    assume(math.prod(space.diagrams.sizes) <= MAX_POINTS)
    # Facts that are compared have more ways into a class than this tries.
    assume(all(len(variable.facts) == 1 for variable in space.variables))
    here = space.point(facts)
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
        if decided(rules, "fp8", changed).backend == backend:
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
