"""Switches: text is read as vLLM reads it, and only where the oracle asks for it.

``switch_readings.json`` is what vLLM 0.33.0 made of the text, recorded by the command in it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules import (
    NAMED_KEYS,
    Decision,
    FusedMoEConfig,
    InvalidRequestError,
    Selector,
    load_machine,
    load_platform,
    select_backend,
)
from moe_rules.language.rules import PlatformRules
from moe_rules.vocabulary.fact_values import SwitchError
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.readings import Unreadable
from moe_rules.vocabulary.switches import SWITCHES, switches_from_environ

RECORD: dict[str, Any] = json.loads(
    (Path(__file__).parent / "switch_readings.json").read_text(encoding="utf-8")
)
RECORDED = [
    (name, text, outcome)
    for name, found in RECORD["readings"].items()
    for text, outcome in found["texts"].items()
]
KERNELS = {"indexed": "HummingIndexedExperts", "grouped_contiguous": "HummingGroupedExperts"}
BLOCK = (NAMED_KEYS["kFp8Static128BlockSym"], NAMED_KEYS["kFp8Dynamic128Sym"])


def fp8_layer(environ: dict[str, str], machine: str = "h100", **others: Any) -> Decision:
    layer = FusedMoEConfig(
        num_experts=128,
        experts_per_token=8,
        hidden_dim=2048,
        intermediate_size=768,
        routing_method="RenormalizeNaive",
        moe_backend=others.pop("moe_backend", "auto"),
    )
    return select_backend(
        "fp8", layer, *BLOCK, machine=machine, environ=environ, allow_vllm_cutlass=False, **others
    )


def test_every_switch_is_recorded() -> None:
    assert set(RECORD["readings"]) == set(SWITCHES)
    assert len(RECORDED) >= 10 * len(SWITCHES)


@pytest.mark.parametrize(("name", "text", "outcome"), RECORDED)
def test_text_is_read_as_the_reference_reads_it(name: str, text: str, outcome: Any) -> None:
    value = switches_from_environ({name: text})[name]
    if outcome == {"error": "ValueError"}:
        assert isinstance(value, Unreadable)
        assert name in value.error
        assert repr(text) in value.error
    elif FACTS[name].type == "switch":
        assert value is outcome
    else:
        assert value == outcome.lower()


@pytest.mark.parametrize("name", SWITCHES)
def test_what_unset_means(name: str) -> None:
    assert RECORD["readings"][name]["unset"] is FACTS[name].default
    assert switches_from_environ({"PATH": "/", "VLLM_OTHER": "x"}) == {}


@pytest.mark.parametrize(("text", "used"), RECORD["used_gemm_types"].items())
def test_the_gemm_type_in_use_picks_the_kernel(text: str, used: str) -> None:
    environ = {"VLLM_HUMMING_MOE_GEMM_TYPE": text}
    if used in KERNELS:
        assert fp8_layer(environ, moe_backend="humming").kernel == KERNELS[used]
    else:
        with pytest.raises(InvalidRequestError, match="VLLM_HUMMING_MOE_GEMM_TYPE is "):
            fp8_layer(environ, moe_backend="humming")
        assert fp8_layer(environ).backend == "TRITON"


def test_what_is_read_at_import_does_not_follow_the_environment() -> None:
    assert [n for n, reading in SWITCHES.items() if reading.at_import] == RECORD["kept_from_import"]
    now = {"VLLM_ROCM_USE_AITER": "1", "VLLM_BATCH_INVARIANT": "1"}
    assert switches_from_environ(now, at_import={}) == {"VLLM_BATCH_INVARIANT": True}
    kept = switches_from_environ({}, at_import=now)
    assert kept == {"VLLM_ROCM_USE_AITER": True}


def test_each_reading_says_where_it_is_from() -> None:
    for reading in SWITCHES.values():
        assert reading.source.startswith("vllm/envs.py:")
        assert reading.read
        assert all(".py:" in where for _, where in reading.read)


@pytest.mark.parametrize("name", ["VLLM_CPU_INT4_W4A8", "VLLM_USE_FLASHINFER_MOE_INT4"])
def test_a_switch_that_the_oracle_does_not_ask_for_is_no_error(name: str) -> None:
    decision = fp8_layer({name: "nonsense"})
    assert decision.backend == "TRITON"
    assert name not in decision.facts


def test_a_platform_that_does_not_ask_for_it_is_no_error() -> None:
    layer = FusedMoEConfig(
        num_experts=8, experts_per_token=2, hidden_dim=1024, intermediate_size=768
    )
    environ = {"VLLM_CPU_INT4_W4A8": ""}
    for machine in ("h100", "mi300x"):
        select_backend("unquantized", layer, machine=machine, environ=environ)


@pytest.mark.parametrize("machine", ["h100", "b200", "mi300x"])
@pytest.mark.parametrize("text", ["", "true", "off"])
def test_one_that_it_asks_for_and_cannot_read_is_an_error(text: str, machine: str) -> None:
    with pytest.raises(SwitchError) as caught:
        fp8_layer({"VLLM_BATCH_INVARIANT": text}, machine)
    assert isinstance(caught.value, ValueError)
    for part in (f"VLLM_BATCH_INVARIANT={text!r}", "an integer", "vllm/envs.py:638", ".yaml:"):
        assert part in str(caught.value)


def test_a_request_goes_on_where_automatic_selection_asks_for_the_switch() -> None:
    environ = {"VLLM_USE_DEEP_GEMM": "maybe"}
    assert fp8_layer(environ, moe_backend="triton").backend == "TRITON"
    with pytest.raises(SwitchError, match="VLLM_USE_DEEP_GEMM='maybe'"):
        fp8_layer(environ)


def test_a_switch_that_another_decides_is_not_read() -> None:
    environ = {"VLLM_USE_DEEP_GEMM": "0", "VLLM_MOE_USE_DEEP_GEMM": "maybe"}
    assert fp8_layer(environ).backend == "TRITON"


def test_the_explanation_of_a_decision_does_not_read_it_either() -> None:
    decision = fp8_layer({"VLLM_USE_DEEP_GEMM": "maybe"}, moe_backend="triton")
    assert "VLLM_USE_DEEP_GEMM" in decision.unknown_facts
    assert decision.to_dict()["backend"] == "TRITON"


def test_a_stated_fact_replaces_an_unreadable_switch() -> None:
    decision = fp8_layer({"VLLM_BATCH_INVARIANT": "true"}, VLLM_BATCH_INVARIANT=False)
    assert decision.facts["VLLM_BATCH_INVARIANT"] is False


@functools.cache
def cuda_rules() -> PlatformRules:
    return load_platform("cuda")


@given(st.dictionaries(st.sampled_from(sorted(SWITCHES)), st.text(max_size=4)))
def test_no_text_ends_in_another_error(environ: dict[str, str]) -> None:
    constants = {**load_machine("h100").facts(), **switches_from_environ(environ)}
    layer = FusedMoEConfig(
        num_experts=8, experts_per_token=2, hidden_dim=1024, intermediate_size=768
    )
    try:
        Selector(cuda_rules(), constants).select("fp8", layer, *BLOCK, allow_vllm_cutlass=True)
    except (SwitchError, InvalidRequestError):
        assert environ
