"""What is decided by: facts that are given, constant, derived, assumed, defaults or unknown."""

from __future__ import annotations

import pytest

from moe_rules.selectors.errors import InvalidRequestError
from moe_rules.selectors.facts import layer_facts
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactError, FactValue
from moe_rules.vocabulary.layer import FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tests.conftest import SMALL, MakeRules
from tests.engine.layers import LAYER, VARIANTS, layer, select, with_section


def test_facts_of_a_call_take_the_place_of_the_machines(small: MakeRules) -> None:
    selector = small()
    asked = selector.select("unquantized", layer(), compute_capability=(8, 0))
    assert (asked.backend, asked.facts["compute_capability"]) == ("SLOW", (8, 0))
    assert asked.candidates[0].failures[0].seen == "8.0"
    assert select(selector).backend == "FAST"


def test_facts_of_a_call_are_known_where_the_machine_has_none(small: MakeRules) -> None:
    selector = small(rules=SMALL.replace('num_experts: "<=64"', "hpc: true"))
    assert select(selector).backend == "FAST"
    assert selector.select("unquantized", layer(), hpc=False).backend == "SLOW"


def test_what_has_a_default_is_not_unknown(small: MakeRules) -> None:
    rules = with_section("    switches: [{when: {VLLM_USE_DEEP_GEMM: unset}, take: SLOW}]")
    selector = Selector(small(rules=rules).rules, {"device": "cuda"}, {"VLLM_USE_DEEP_GEMM"})
    assert selector.decide("unquantized", layer_facts(LAYER)).how == "switch"


def test_assumptions_meet_what_those_before_them_assume(small: MakeRules) -> None:
    device = {"compute_capability": (8, 0)}
    old = "{when: {compute_capability: '8.0'}, set: {num_experts: 128}}"
    new = "{set: {compute_capability: '9.0'}}"
    for order, backend in ((f"{old}, {new}", "SLOW"), (f"{new}, {old}", "FAST")):
        selector = small(rules=with_section(f"    assume: [{order}]"), **device)
        assert select(selector).backend == backend


def test_derived_facts_follow_from_what_is_supplied(small: MakeRules) -> None:
    rules = with_section("    assume: [{set: {use_ep: true}}]").replace(
        'num_experts: "<=64"', "use_all2all_kernels: true"
    )
    sizes = FusedMoEParallelConfig(dp_size=2, use_ep=False)
    assert select(small(rules=rules), moe_parallel_config=sizes).backend == "SLOW"
    assert select(small(rules=rules, use_ep=False), moe_parallel_config=sizes).backend == "SLOW"


def test_what_is_assumed_somewhere_may_be_unknown_elsewhere(small: MakeRules) -> None:
    rules = with_section("    assume: [{when: {num_experts: 8}, set: {hpc: false}}]")
    selector = small(rules=rules.replace('num_experts: "<=64"', "hpc: true"))
    assert select(selector).backend == "SLOW"
    assert select(selector, num_experts=9).backend == "FAST"


def test_what_is_missing_beside_a_fact_that_may_be_unknown_is_asked_for(small: MakeRules) -> None:
    rules = with_section("    assume: [{when: {num_experts: 8}, set: {hpc: false}}]")
    rules = rules.replace('num_experts: "<=64"', "hpc: true, aiter: true")
    asked: list[str] = []

    def find(name: str) -> bool:
        asked.append(name)
        if name == "hpc":
            raise LookupError(name)
        return False

    constants: dict[str, FactValue] = {"device": "cuda", "compute_capability": (9, 0)}
    selector = Selector(small(rules=rules).rules, constants, find=find)
    assert select(selector, num_experts=9).backend == "SLOW"
    assert asked == ["hpc", "aiter"]


def test_assumed_facts_reach_the_kernels(small: MakeRules) -> None:
    facts = layer_facts(LAYER)
    facts |= {"activation_key": None, "moe_activation_override": NAMED_KEYS["kMxfp8Dynamic"]}
    assert small(rules=VARIANTS).decide("mxfp4", facts).backend == "MXFP8"


def test_unknown_machine_facts_abstain_and_are_reported(small: MakeRules) -> None:
    rules = SMALL.replace("num_experts:", "deep_gemm: true, num_experts:")
    decision = select(small(rules=rules))
    assert decision.backend == "FAST"
    assert decision.unknown_facts == ("deep_gemm",)
    assert select(small(rules=rules, deep_gemm=False)).backend == "SLOW"


def test_unknown_layer_facts_abstain_and_are_reported(small: MakeRules) -> None:
    facts = layer_facts(LAYER)
    del facts["num_experts"], facts["ep_size"]
    decision = small().decide("unquantized", facts)
    assert decision.backend == "FAST"
    assert "num_experts" in decision.unknown_facts


BATCHED = SMALL.replace('num_experts: "<=64"', "activation_format: standard")


UNQUANTIZED: dict[str, FactValue] = {"weight_key": None, "activation_key": None}


EXPERT_PARALLEL = FusedMoEParallelConfig(
    use_ep=True, ep_size=8, dp_size=8, all2all_backend="deepep_low_latency"
)


def test_what_follows_from_unknown_facts_is_unknown(small: MakeRules) -> None:
    facts = {**layer_facts(layer(moe_parallel_config=EXPERT_PARALLEL)), **UNQUANTIZED}
    assert small(rules=BATCHED).decide("unquantized", facts).backend == "SLOW"
    del facts["use_ep"]
    decision = small(rules=BATCHED).decide("unquantized", facts)
    assert decision.backend == "FAST"
    assert decision.unknown_facts == ("activation_format",)


def test_what_follows_from_the_known_facts_is_known(small: MakeRules) -> None:
    facts = {**layer_facts(LAYER), **UNQUANTIZED}
    del facts["dp_size"], facts["all2all_backend"]
    decision = small(rules=BATCHED).decide("unquantized", facts)
    assert decision.facts["activation_format"] == "standard"
    assert decision.unknown_facts == ()


@pytest.mark.parametrize(
    "section",
    [
        "    adjust: [{when: {deep_gemm: true}, first: [SLOW]}]",
        "    switches: [{when: {deep_gemm: true}, take: SLOW}]",
        "    shortcuts: [{when: {deep_gemm: true}, take: SLOW}]",
    ],
)
def test_unknown_facts_trigger_no_rule_and_are_reported(small: MakeRules, section: str) -> None:
    decision = select(small(rules=with_section(section)))
    assert decision.order == ("FAST", "SLOW")
    assert decision.unknown_facts == ("deep_gemm",)


def test_a_fact_of_a_rule_that_does_not_apply_anyway_is_not_reported(small: MakeRules) -> None:
    section = "    adjust: [{when: {deep_gemm: true, num_experts: 1}, first: [SLOW]}]"
    assert select(small(rules=with_section(section))).unknown_facts == ()


def test_a_constant_fact_may_be_compared_with_a_layer_fact(small: MakeRules) -> None:
    rules = SMALL.replace('num_experts: "<=64"', "hidden_dim: {multiple_of: group_size}")
    assert select(small(rules=rules, group_size=32)).backend == "FAST"
    assert select(small(rules=rules, group_size=48)).backend == "SLOW"


def test_facts_without_which_nothing_is_decided(small: MakeRules) -> None:
    facts = layer_facts(LAYER)
    del facts["moe_backend"]
    with pytest.raises(FactError, match="do not give moe_backend, without which oracle 'unquant"):
        small().decide("unquantized", facts)
    with pytest.raises(FactError, match="do not give activation_key"):
        small(rules=VARIANTS).decide("mxfp4", layer_facts(LAYER))


def test_of_two_keys_one_may_be_unknown(small: MakeRules) -> None:
    facts = {**layer_facts(LAYER), "activation_key": NAMED_KEYS["kFp8Dynamic128Sym"]}
    decision = small().decide("unquantized", facts)
    assert decision.backend == "SLOW"  # no weights go with this activation
    (failure,) = decision.candidates[0].failures
    assert failure.seen == "unknown x kFp8Dynamic128Sym"
    assert small().decide("unquantized", {**facts, "activation_key": None}).backend == "FAST"


def test_a_constant_is_found_when_a_rule_asks_for_it(small: MakeRules) -> None:
    asked: list[str] = []

    def find(name: str) -> bool:
        asked.append(name)
        if name != "flashinfer":
            raise LookupError(name)
        return False

    rules = small(rules=SMALL.replace('num_experts: "<=64"', "flashinfer: true, hpc: true")).rules
    device = {"device": "cuda", "compute_capability": (9, 0)}
    selector = Selector(rules, device, find=find)
    assert asked == []
    assert [select(selector, hidden_dim=n).backend for n in (64, 128)] == ["SLOW", "SLOW"]
    assert asked == ["flashinfer"]  # once, and what cannot matter is not looked for
    found = select(Selector(rules, {**device, "flashinfer": True}, find=find))
    assert found.backend == "FAST"  # what cannot be found is no obstacle
    assert asked == ["flashinfer", "hpc"]


def test_what_a_request_assumes_wins_over_its_backend(small: MakeRules) -> None:
    rules = SMALL.replace(
        "requests: {fast: FAST, slow: SLOW}",
        "requests: {fast: [{use: FAST, assume: {num_experts: {value_of: hidden_dim}}}]}",
    ).replace(
        "FAST: {kernels: [FastExperts]}",
        "FAST: {kernels: [FastExperts], assume: {num_experts: 65}}",
    )
    selector = small(rules=rules)
    assert select(selector, hidden_dim=64).backend == "SLOW"
    assert select(selector, moe_backend="fast", hidden_dim=64).backend == "FAST"
    with pytest.raises(InvalidRequestError, match="num_experts is 128"):
        select(selector, moe_backend="fast", hidden_dim=128)
