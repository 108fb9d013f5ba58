"""Functions of layers decide, explain and refuse as the interpreter of the rules does."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_rules.engine.decision import Decision
from moe_rules.language.requested import requests_from_environ
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import load_machine, named_machines
from moe_rules.selectors import selector as selector_module
from moe_rules.selectors.errors import InvalidRequestError, SelectionError
from moe_rules.selectors.facts import layer_facts
from moe_rules.selectors.selector import Selector, selector_for
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey
from moe_rules.vocabulary.switches import switches_from_environ
from tests.analysis.random_rules import deployments, load, rule_files, values_of
from tests.conftest import MakeRules

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
LAYER = FusedMoEConfig(num_experts=128, experts_per_token=8, hidden_dim=2048, intermediate_size=768)
PARALLEL_FIELDS = list(FusedMoEParallelConfig.__dataclass_fields__)
LAYER_FIELDS = [
    name for name in FusedMoEConfig.__dataclass_fields__ if name != "moe_parallel_config"
]
_KEYS = st.one_of(
    st.none(), st.sampled_from(list(NAMED_KEYS.values())), values_of(FACTS["weight_key"])
)


def layers() -> st.SearchStrategy[FusedMoEConfig]:
    """Layers with any values that their facts may have."""

    def made(layer: dict[str, Any], parallel: dict[str, Any]) -> FusedMoEConfig:
        return FusedMoEConfig(**layer, moe_parallel_config=FusedMoEParallelConfig(**parallel))

    return st.builds(made, deployments(LAYER_FIELDS), deployments(PARALLEL_FIELDS))


def both(
    selector: Selector, oracle: str, layer: FusedMoEConfig, keys: tuple[Any, Any], **others: Any
) -> tuple[Decision, Decision]:
    """What the function of the oracle decides, and what the interpreter does."""
    assert selector.compiled(oracle, *others) is not None
    try:
        ours = selector.select(oracle, layer, *keys, **others)
    except SelectionError as error:
        ours = error.decision
    facts = {**layer_facts(layer), "weight_key": keys[0], "activation_key": keys[1], **others}
    return ours, selector.decide(oracle, facts)


@settings(max_examples=40, suppress_health_check=SLOW)
@given(rule_files(), st.booleans(), layers(), _KEYS, _KEYS, values_of(FACTS["group_size"]))
def test_random_rules_decide_and_explain_random_layers_alike(
    file: dict, deep_gemm: bool, layer: FusedMoEConfig, weight: Any, activation: Any, size: Any
) -> None:
    rules = load(file)
    constants = {"device": "cuda", "compute_capability": (9, 0), "deep_gemm": deep_gemm}
    selector = Selector(rules, constants)
    for others in ({"group_size": size}, {"VLLM_USE_DEEP_GEMM": True}, {"num_tokens": 65}):
        if rules.requested:
            assert selector.compiled("fp8", *others) is None
            return
        ours, interpreted = both(selector, "fp8", layer, (weight, activation), **others)
        assert ours.result == interpreted.result
        assert ours.to_dict() == interpreted.to_dict()


@functools.cache
def machine_selector(name: str) -> Selector:
    return selector_for(load_machine(name))


@settings(max_examples=150, suppress_health_check=SLOW)
@given(st.sampled_from(sorted(named_machines())), layers(), _KEYS, _KEYS, st.data())
def test_named_machines_decide_random_layers_alike(
    machine: str, layer: FusedMoEConfig, weight: Any, activation: Any, data: st.DataObject
) -> None:
    selector = machine_selector(machine)
    oracle = data.draw(st.sampled_from(sorted(selector.rules.oracles)))
    ours, interpreted = both(selector, oracle, layer, (weight, activation))
    assert ours.result == interpreted.result


def test_an_oracle_is_compiled_once_it_is_asked_often(
    small: MakeRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selector_module, "COMPILED_AFTER", 2)
    selector, other = small(), small()
    decisions = []
    for number in range(1, 6):
        layer = FusedMoEConfig(**{**LAYER.__dict__, "num_experts": number})  # type: ignore[arg-type]
        decisions.append(selector.select("unquantized", layer))
        assert ("unquantized",) in selector._functions or number <= 2
        assert decisions[-1].to_dict() == other.select("unquantized", layer).to_dict()
    function = selector.compiled("unquantized")
    assert function is selector._functions["unquantized",]
    assert function is not None
    assert "num_experts = layer.num_experts" in function.text
    assert "compute_capability" not in function.text


def test_failed_decisions_are_errors_that_explain(small: MakeRules) -> None:
    selector = small()
    assert selector.compiled("unquantized") is not None
    layer = FusedMoEConfig(**{**LAYER.__dict__, "moe_backend": "fast"})  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="num_experts is 128, wanted <=64"):
            selector.select("unquantized", layer)


@pytest.mark.parametrize(
    ("others", "constants"),
    [
        ({"compute_capability": (10, 0)}, {}),
        ({"deep_gemm": True}, {}),
        ({"all2all": "naive"}, {}),
        ({}, {"num_experts": 8}),
    ],
)
def test_facts_in_odd_places_are_left_to_the_interpreter(
    small: MakeRules, others: dict[str, FactValue], constants: dict[str, FactValue]
) -> None:
    assert small(**constants).compiled("unquantized", *others) is None


def test_a_fact_of_the_layer_may_be_given_beside_it(small: MakeRules) -> None:
    ours, interpreted = both(small(), "unquantized", LAYER, (None, None), num_experts=8)
    assert (ours.backend, interpreted.backend) == ("FAST", "FAST")


def test_unreadable_switches_requests_and_what_is_found_are_left_to_the_interpreter() -> None:
    rules = load_platform("cuda")
    facts = load_machine("h100").facts()
    switches = switches_from_environ({"VLLM_FLASHINFER_MOE_BACKEND": "odd"})
    selector = Selector(rules, {**facts, **switches})
    assert selector.compiled("unquantized") is None or not selector._unreadable
    requests = requests_from_environ({"MOE_RULES_BACKEND": "fp8=triton"}, rules.oracles)
    assert Selector(rules, facts, None, requests).compiled("fp8") is None
    assert Selector(rules, {"device": "cuda"}, find=facts.__getitem__).compiled("fp8") is None
    assert Selector(rules, facts).compiled("no_oracle") is None


def test_a_value_that_no_layer_should_have_is_left_to_the_interpreter(small: MakeRules) -> None:
    parallel = FusedMoEParallelConfig(use_ep=True, dp_size=2, ep_size=2, all2all_backend="odd")
    layer = FusedMoEConfig(**{**LAYER.__dict__, "moe_parallel_config": parallel})  # type: ignore[arg-type]
    selector = machine_selector("h100")
    ours, interpreted = both(selector, "unquantized", layer, (None, None))
    assert ours.to_dict() == interpreted.to_dict()


def test_equal_keys_that_are_several_objects(small: MakeRules) -> None:
    selector = machine_selector("h100")
    for _ in range(2):
        weight = QuantKey.from_dict(NAMED_KEYS["kFp8Static128BlockSym"].to_dict())
        activation = QuantKey.from_dict(NAMED_KEYS["kFp8Dynamic128Sym"].to_dict())
        ours, interpreted = both(selector, "fp8", LAYER, (weight, activation))
        assert ours.result == interpreted.result
