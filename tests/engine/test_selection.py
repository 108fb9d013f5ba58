"""The pipeline on small rule sets: order, requests, steps, variants, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from moe_rules.selectors.errors import InvalidRequestError, NotSupportedError
from moe_rules.selectors.facts import layer_facts
from moe_rules.selectors.selector import MAX_ASKED, select_backend
from moe_rules.vocabulary.fact_values import FactError, FactValue
from moe_rules.vocabulary.layer import FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tests.conftest import SMALL, MakeRules
from tests.engine.layers import LAYER, VARIANTS, layer, select, with_section


def test_first_backend_without_failures_wins(small: MakeRules) -> None:
    decision = select(small())
    assert (decision.backend, decision.kernel, decision.how) == ("FAST", "FastExperts", "auto")
    assert decision.order == ("FAST", "SLOW")


def test_next_backend_serves_where_the_first_cannot(small: MakeRules) -> None:
    decision = select(small(), num_experts=65)
    assert decision.backend == "SLOW"
    fast = decision.candidates[0]
    assert [(f.code, f.seen, f.wanted) for f in fast.failures] == [("shape", "65", "<=64")]
    assert fast.failures[0].location.file.endswith("cuda.yaml")
    assert fast.failures[0].location.line == 13


def test_all_failed_clauses_are_listed(small: MakeRules) -> None:
    selector = small(compute_capability=(8, 0))
    decision = select(selector, num_experts=65, is_lora_enabled=True)
    assert [f.code for f in decision.candidates[0].failures] == ["device", "shape", "lora"]


def test_schemes_may_compare_keys_with_other_facts(small: MakeRules) -> None:
    same = "{weight: none, activation: {same_as: moe_activation_override}}"
    selector = small(rules=SMALL.replace("{weight: none, activation: none}", same))
    key = NAMED_KEYS["kFp8Dynamic128Sym"]
    for override, backend in ((None, "FAST"), (key, "SLOW"), (None, "FAST")):
        asked = selector.select("unquantized", layer(), moe_activation_override=override)
        assert asked.backend == backend


def test_the_public_call_takes_keys_by_name() -> None:
    name = "kFp8StaticTensorSym"
    for key in (name, NAMED_KEYS[name]):
        asked = select_backend("fp8", LAYER, key, key, machine="h100", environ={})
        assert asked.facts["weight_key"] is NAMED_KEYS[name]
    with pytest.raises(FactError, match="unknown quantization key 'fp8'"):
        select_backend("fp8", LAYER, "fp8", machine="h100", environ={})


def test_no_backend_is_an_error_with_every_reason(small: MakeRules) -> None:
    rules = SMALL.replace(
        "    supports: [lora, no_act_and_mul]\n", "    requires: {use_ep: true}\n"
    )
    with pytest.raises(NotSupportedError) as caught:
        select(small(rules=rules), num_experts=65)
    assert isinstance(caught.value, NotImplementedError)
    text = str(caught.value)
    assert "no backend supports this deployment" in text
    assert "num_experts is 65, wanted <=64" in text
    assert "use_ep is false, wanted true" in text
    assert text.endswith("nearest:\n    ep_size: 2 instead of 1; use_ep: true instead of false")


@pytest.mark.parametrize(("name", "backend"), [("fast", "FAST"), ("slow", "SLOW")])
def test_request_by_name(small: MakeRules, name: str, backend: str) -> None:
    decision = select(small(), moe_backend=name)
    assert (decision.backend, decision.how) == (backend, "requested")


def test_request_that_cannot_serve_is_a_value_error_with_reasons(small: MakeRules) -> None:
    with pytest.raises(InvalidRequestError, match="num_experts is 65, wanted <=64") as caught:
        select(small(), moe_backend="fast", num_experts=65)
    assert isinstance(caught.value, ValueError)
    assert caught.value.decision.failed


def test_unknown_request_names_the_nearest(small: MakeRules) -> None:
    with pytest.raises(ValueError, match="did you mean 'fast'"):
        select(small(), moe_backend="fats")


def test_request_with_cases(small: MakeRules) -> None:
    rules = SMALL.replace(
        "requests: {fast: FAST, slow: SLOW}",
        "requests:\n"
        "      fast:\n"
        "        - {when: {activation_format: batched}, use: SLOW}\n"
        "        - {when: {has_bias: false}, use: FAST}\n"
        "      whatever: auto",
    )
    selector = small(rules=rules)
    batched = FusedMoEParallelConfig(
        use_ep=True, ep_size=8, dp_size=8, all2all_backend="deepep_low_latency"
    )
    assert select(selector, moe_backend="fast").backend == "FAST"
    assert select(selector, moe_backend="fast", moe_parallel_config=batched).backend == "SLOW"
    whatever = select(selector, moe_backend="whatever")
    assert whatever.how == "auto"
    (warning,) = whatever.warnings
    assert warning.startswith("whatever was asked for and means auto here (")
    assert select(selector).warnings == ()
    with pytest.raises(ValueError, match="has_bias: false"):
        select(selector, moe_backend="fast", has_bias=True)


@pytest.mark.parametrize(
    ("adjust", "order"),
    [
        ("{first: [SLOW]}", ("SLOW", "FAST")),
        ("{last: [FAST]}", ("SLOW", "FAST")),
        ("{move: SLOW, before: FAST}", ("SLOW", "FAST")),
        ("{move: FAST, after: SLOW}", ("SLOW", "FAST")),
        ("{move: FAST, before: SLOW}", ("FAST", "SLOW")),
        ("{drop: [FAST]}", ("SLOW",)),
        ("{withdraw: [FAST]}", ("SLOW",)),
        ("{when: {has_bias: true}, first: [SLOW]}", ("FAST", "SLOW")),
        ("{when: {has_bias: false}, first: [SLOW]}", ("SLOW", "FAST")),
    ],
)
def test_adjustments(small: MakeRules, adjust: str, order: tuple[str, ...]) -> None:
    decision = select(small(rules=with_section(f"    adjust: [{adjust}]")))
    assert decision.order == order


def test_what_is_ahead_already_is_not_moved(small: MakeRules) -> None:
    rules = with_section("    adjust: [{move: FAST, before: SLOW}]")
    rules = rules.replace("[FAST, SLOW]", "[FAST, NEXT, SLOW]").replace(
        "      SLOW:", "      NEXT: {kernels: [SlowExperts]}\n      SLOW:"
    )
    assert select(small(rules=rules)).order == ("FAST", "NEXT", "SLOW")


def test_dropped_backends_can_be_requested_and_withdrawn_ones_cannot(small: MakeRules) -> None:
    dropped = small(rules=with_section("    adjust: [{drop: [FAST]}]"))
    assert select(dropped, moe_backend="fast").backend == "FAST"
    withdrawn = small(rules=with_section("    adjust: [{withdraw: [FAST], because: broken}]"))
    with pytest.raises(ValueError, match=r"FAST: taken out of the order .* broken"):
        select(withdrawn, moe_backend="fast")


def test_removed_backends_are_listed_with_their_reason(small: MakeRules) -> None:
    decision = select(small(rules=with_section("    adjust: [{drop: [FAST], because: too new}]")))
    assert [(r.backend, r.because) for r in decision.removed] == [("FAST", "too new")]


@pytest.mark.parametrize(
    ("step", "changes", "outcome"),
    [
        ("{take: SLOW}", {}, "SLOW"),
        ("{take: OTHER}", {}, "OTHER"),
        ("{when: {has_bias: true}, take: SLOW}", {}, "FAST"),
        ("{try: FAST}", {"num_experts": 65}, "SLOW"),
        ("{try: SLOW}", {}, "SLOW"),
        ("{force: FAST}", {"num_experts": 65}, "error"),
        ("{force: FAST, requires: {has_bias: true}}", {}, "error"),
        ("{try: FAST, kernels: [SlowExperts]}", {"num_experts": 65}, "FAST"),
        ("{try: FAST, assume: {num_experts: 1}}", {"num_experts": 65}, "FAST"),
        ("{refuse: not today}", {}, "error"),
        ("{drop: [FAST]}", {}, "SLOW"),
    ],
)
@pytest.mark.parametrize("section", ["shortcuts", "switches"])
def test_steps(
    small: MakeRules, section: str, step: str, changes: Mapping[str, object], outcome: str
) -> None:
    selector = small(rules=with_section(f"    {section}: [{step}]"))
    if outcome == "error":
        with pytest.raises(InvalidRequestError):
            select(selector, **changes)
    else:
        assert select(selector, **changes).backend == outcome


def test_shortcuts_come_before_a_request_and_switches_after(small: MakeRules) -> None:
    shortcut = small(rules=with_section("    shortcuts: [{take: SLOW}]"))
    assert select(shortcut, moe_backend="fast").backend == "SLOW"
    switch = small(rules=with_section("    switches: [{take: SLOW}]"))
    assert select(switch, moe_backend="fast").backend == "FAST"


def test_a_step_tried_in_vain_is_a_warning(small: MakeRules) -> None:
    selector = small(rules=with_section("    switches: [{try: FAST, because: it is on}]"))
    decision = select(selector, num_experts=65)
    assert decision.order == ("SLOW",)
    (warning,) = decision.warnings
    assert "FAST was tried first" in warning
    assert "it is on" in warning


def test_kernels_of_a_step_tried_in_vain_say_nothing_of_the_backends_own(small: MakeRules) -> None:
    step = "{try: FAST, kernels: [SlowExperts], requires: {has_bias: true}}"
    decision = select(small(rules=with_section(f"    switches: [{step}]")))
    assert (decision.backend, decision.order) == ("FAST", ("FAST", "SLOW"))


@pytest.mark.parametrize(
    ("key", "name", "order", "backend"),
    [
        (None, "auto", ("BF16", "ANY"), "BF16"),
        ("kMxfp8Dynamic", "auto", ("MXFP8", "ANY", "BF16"), "MXFP8"),
        ("kFp8StaticTensorSym", "auto", ("ANY", "BF16"), "ANY"),
        (None, "both", None, "BF16"),
        ("kMxfp8Dynamic", "both", None, "MXFP8"),
        (None, "mxfp8", None, "MXFP8"),
        (None, "all", None, "MXFP8"),
        ("kFp8StaticTensorSym", "mxfp8", None, None),
    ],
)
def test_variants(
    small: MakeRules, key: str | None, name: str, order: tuple[str, ...] | None, backend: str | None
) -> None:
    facts = layer_facts(layer(moe_backend=name))
    facts["activation_key"] = None if key is None else NAMED_KEYS[key]
    decision = small(rules=VARIANTS).decide("mxfp4", facts)
    assert decision.backend == backend
    if order is not None:
        assert decision.order == order


def test_a_lower_precision_than_asked_is_a_warning(small: MakeRules) -> None:
    rules = VARIANTS.replace("[BF16, MXFP8, ANY]", "[BF16]")
    facts: dict[str, FactValue] = layer_facts(LAYER)
    facts["activation_key"] = NAMED_KEYS["kMxfp8Dynamic"]
    (warning,) = small(rules=rules).decide("mxfp4", facts).warnings
    assert "no backend serves activation_key kMxfp8Dynamic" in warning


def test_otherwise_a_named_backend(small: MakeRules) -> None:
    rules = with_section("    otherwise: {backend: NONE}").replace(
        "    supports: [lora, no_act_and_mul]\n", "    requires: {use_ep: true}\n"
    )
    decision = select(small(rules=rules), num_experts=65)
    assert (decision.backend, decision.kernel, decision.how) == ("NONE", None, "fallback")


def test_auto_is_a_name_to_mean(small: MakeRules) -> None:
    with pytest.raises(InvalidRequestError, match="did you mean 'auto'"):
        select(small(), moe_backend="auot")


def test_facts_and_oracles_that_do_not_exist(small: MakeRules) -> None:
    with pytest.raises(FactError, match="did you mean 'unquantized'"):
        small().select("unquantised", LAYER)
    with pytest.raises(FactError, match="did you mean 'may_have_bias'"):
        small().select("unquantized", LAYER, may_have_biass=True)
    with pytest.raises(FactError, match="may_have_bias cannot be 'perhaps'"):
        small().select("unquantized", LAYER, may_have_bias="perhaps")


def test_a_layer_gets_its_remembered_decision(small: MakeRules) -> None:
    selector = small()
    assert selector.select("unquantized", LAYER) is selector.select("unquantized", LAYER)
    assert selector.select("unquantized", LAYER) is not select(selector, num_experts=9)


def test_so_many_layers_are_remembered_and_no_more(
    small: MakeRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe_rules.selectors.selector.MAX_REMEMBERED", 2)
    selector = small()
    layers = [layer(num_experts=number) for number in range(2, 7)]
    for one in layers:
        assert selector.select("unquantized", one) is selector.select("unquantized", one)
        assert len(selector._remembered) <= 2


def test_each_way_of_asking_for_a_layer_is_remembered(small: MakeRules) -> None:
    selector = small()
    first = selector.select("unquantized", LAYER)
    for tokens in range(2 * MAX_ASKED):
        decision = selector.select("unquantized", LAYER, num_tokens=tokens)
        assert decision.facts["num_tokens"] == tokens
        assert selector.select("unquantized", LAYER, num_tokens=tokens) is decision
    again = selector.select("unquantized", LAYER)
    assert again.result == first.result
    assert "num_tokens" not in again.facts


def test_what_may_change_is_not_remembered(small: MakeRules) -> None:
    """Nor compared with what is: arrays have no truth."""
    selector = small()
    selector.select("unquantized", LAYER, num_tokens=3)
    for _ in range(2):
        with pytest.raises(FactError, match="num_tokens cannot be"):
            selector.select("unquantized", LAYER, num_tokens=np.array([3, 4]))
    block, tensor = (NAMED_KEYS[f"kFp8Static{kind}Sym"] for kind in ("128Block", "Tensor"))
    key: Any = block.to_dict()
    assert selector.select("unquantized", LAYER, key).facts["weight_key"] == block
    key |= tensor.to_dict()
    assert selector.select("unquantized", LAYER, key).facts["weight_key"] == tensor


def test_decisions_serialise(small: MakeRules) -> None:
    import json

    document = json.loads(json.dumps(select(small(), num_experts=65).to_dict()))
    assert document["version"] == 1
    assert document["backend"] == "SLOW"
    assert document["candidates"][0]["failures"][0]["code"] == "shape"
    assert document["rules"] == small().rules.fingerprint
