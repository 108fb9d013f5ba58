"""Requests by oracle and role: who wins, where they are from, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules import FusedMoEConfig, InvalidRequestError, select_backend
from moe_rules.files.problems import RuleFileError
from moe_rules.language.requested import ROLES, keys, requests_from_environ
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactError
from tests.conftest import SMALL, MakeRules
from tests.engine.layers import LAYER, layer

ORACLES = ("unquantized", "fp8")


def requested(text: str) -> str:
    return f"platform: cuda\nrequested: {{{text}}}\n"


def chosen(selector: Selector, role: str = "target", moe_backend: str = "auto") -> str | None:
    decision = selector.select("unquantized", layer(moe_backend=moe_backend), model_role=role)
    return decision.backend


@pytest.fixture
def with_environ(small: MakeRules) -> Callable[..., Selector]:
    def make(text: str, *overlays: str) -> Selector:
        selector = small(*overlays)
        requests = requests_from_environ({"MOE_RULES_BACKEND": text}, selector.rules.oracles)
        return Selector(selector.rules, selector.constants, requested=requests)

    return make


@pytest.mark.parametrize(
    ("text", "target", "draft"),
    [
        ("unquantized: slow", "SLOW", "FAST"),
        ("target: slow", "SLOW", "FAST"),
        ("target.unquantized: slow", "SLOW", "FAST"),
        ("draft: slow", "FAST", "SLOW"),
        ("draft.unquantized: slow", "FAST", "SLOW"),
        ("target: slow, unquantized: fast", "FAST", "FAST"),
        ("draft: slow, draft.unquantized: fast", "FAST", "FAST"),
        ("unquantized: SLOW", "SLOW", "FAST"),
    ],
)
def test_what_a_file_requests(small: MakeRules, text: str, target: str, draft: str) -> None:
    selector = small(requested(text))
    assert (chosen(selector), chosen(selector, "draft")) == (target, draft)


def test_a_request_stands_in_for_the_layers_own(small: MakeRules) -> None:
    selector = small(requested("draft: auto"))
    assert chosen(selector, "target", "slow") == "SLOW"
    assert chosen(selector, "draft", "slow") == "FAST"
    assert chosen(small(), "draft", "slow") == "SLOW"


def test_without_a_role_no_request_is_asked(small: MakeRules) -> None:
    decision = small(requested("target: slow, draft: slow")).select(
        "unquantized", LAYER, model_role=None
    )
    assert (decision.backend, decision.requested) == ("FAST", None)


def test_the_environment_wins_over_files(with_environ: Callable[..., Selector]) -> None:
    file = requested("unquantized: slow, draft.unquantized: slow")
    assert chosen(with_environ("unquantized=fast", file)) == "FAST"
    assert chosen(with_environ("unquantized=auto", file)) == "FAST"
    assert chosen(with_environ("draft=auto", file)) == "SLOW"
    assert chosen(with_environ("draft=auto", file), "draft") == "FAST"


def test_the_last_file_wins(small: MakeRules) -> None:
    first, last = requested("unquantized: slow"), requested("target.unquantized: fast")
    assert chosen(small(first, last)) == "FAST"
    assert chosen(small(last, first)) == "SLOW"


def test_a_decision_says_where_a_request_is_from(
    small: MakeRules, with_environ: Callable[..., Selector]
) -> None:
    decision = small(requested("unquantized: slow")).select("unquantized", LAYER)
    assert decision.how == "requested"
    assert str(decision.requested) == "unquantized=slow (overlay0/cuda.yaml:2)"
    plain = decision.to_dict()["requested"]
    assert (plain["for"], plain["backend"]) == ("unquantized", "slow")
    assert plain["at"].endswith("overlay0/cuda.yaml:2:13")
    by_variable = with_environ("unquantized=auto").select("unquantized", LAYER)
    assert by_variable.how == "auto"
    assert str(by_variable.requested) == "unquantized=auto (MOE_RULES_BACKEND)"
    assert small().select("unquantized", LAYER).to_dict()["requested"] is None


def test_one_that_cannot_serve_fails_as_the_layers_own_does(small: MakeRules) -> None:
    messages = []
    for selector, own in ((small(requested("unquantized: fast")), "auto"), (small(), "fast")):
        with pytest.raises(InvalidRequestError) as caught:
            selector.select("unquantized", layer(num_experts=65, moe_backend=own))
        messages.append(str(caught.value))
    assert "requested by unquantized=fast (overlay0/cuda.yaml:2)" in messages[0]
    assert messages[0].splitlines()[1:] == messages[1].splitlines()[1:]


def test_an_unknown_backend_is_an_error_of_the_oracle_that_is_asked(
    with_environ: Callable[..., Selector],
) -> None:
    rules = "platform: cuda\noracles: {fp8: {priority: [ONE], backends: {ONE: {kernels: [K]}}}}\n"
    selector = with_environ("fp8=fats,unquantized=slow", rules + "kernels: {K: {}}\n")
    assert chosen(selector) == "SLOW"
    with pytest.raises(InvalidRequestError, match=r"'fats'.*fp8=fats \(MOE_RULES_BACKEND\)"):
        selector.select("fp8", LAYER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slow", r"'slow' is no request; write \[ROLE.\]ORACLE=BACKEND"),
        ("unquantized=", "'unquantized=' is no request"),
        ("=slow", "'=slow' is no request"),
        ("unquantised=slow", "did you mean 'unquantized'"),
        ("darft=slow", "did you mean 'draft'"),
        ("draft.unquantised=slow", "did you mean 'draft.unquantized'"),
        ("draft.=slow", r"'draft\.' is no oracle or role"),
        ("fp8=slow,target.fp8=fast", "'target.fp8' is said twice"),
    ],
)
def test_what_is_no_request(text: str, message: str) -> None:
    with pytest.raises(FactError, match=message):
        requests_from_environ({"MOE_RULES_BACKEND": text}, ORACLES)


def test_spaces_and_empty_items_do_not_matter_and_names_are_written_as_for_the_engine() -> None:
    found = requests_from_environ({"MOE_RULES_BACKEND": " fp8 = Deep-GEMM , ,"}, ORACLES)
    assert [(one.role, one.oracle, one.backend) for one in found.values()] == [
        ("target", "fp8", "deep_gemm")
    ]
    assert requests_from_environ({}, ORACLES) == {}


@given(st.dictionaries(st.sampled_from(keys(ORACLES)), st.sampled_from(["auto", "a", "b"])))
def test_every_key_is_for_one_role(requests: dict[str, str]) -> None:
    text = ",".join(f"{key}={backend}" for key, backend in requests.items())
    twice = any(key in requests and f"target.{key}" in requests for key in ORACLES)
    if twice:
        with pytest.raises(FactError, match="said twice"):
            requests_from_environ({"MOE_RULES_BACKEND": text}, ORACLES)
        return
    found = requests_from_environ({"MOE_RULES_BACKEND": text}, ORACLES)
    assert len(found) == len(requests)
    assert {role for role, _ in found} <= set(ROLES)
    for one in found.values():
        assert requests[one.key] == one.backend


def test_a_file_with_an_unknown_oracle_is_an_error(small: MakeRules) -> None:
    with pytest.raises(RuleFileError, match=r"cuda.yaml:2:13: error: 'unquantised'.*did you mean"):
        small(requested("unquantised: slow"))


def test_packaged_rules_may_request_too(small: MakeRules) -> None:
    assert chosen(small(rules=f"{SMALL}requested: {{unquantized: slow}}\n")) == "SLOW"


def test_the_public_call_reads_the_variable() -> None:
    moe = FusedMoEConfig(
        num_experts=8, experts_per_token=2, hidden_dim=1024, intermediate_size=768,
        moe_backend="flashinfer_cutlass",
    )  # fmt: skip

    def backend(text: str, role: str) -> str | None:
        environ = {"MOE_RULES_BACKEND": text}
        return select_backend(
            "unquantized", moe, machine="h100", environ=environ, model_role=role
        ).backend

    assert backend("draft=triton", "target") == "FLASHINFER_CUTLASS"
    assert backend("draft=triton", "draft") == "TRITON"
    with pytest.raises(FactError, match="model_role cannot be 'draf'; did you mean 'draft'"):
        backend("draft=triton", "draf")
