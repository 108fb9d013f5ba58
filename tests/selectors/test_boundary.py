"""What is given to the library is taken, or refused by its own error that says what is meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from moe_rules import (
    NAMED_KEYS,
    FactError,
    FusedMoEConfig,
    MachineError,
    Selector,
    load_machine,
    load_platform,
    select_backend,
)
from tests.engine.layers import LAYER

KEYS = ("kFp8Static128BlockSym", "kFp8Dynamic128Sym")

select = partial(select_backend, machine="h100", environ={})


@pytest.mark.parametrize("layer", [{}, None, "layer", FusedMoEConfig, vars(LAYER)])
def test_what_is_no_layer(layer: Any) -> None:
    with pytest.raises(TypeError, match=r"a layer is described by moe_rules\.FusedMoEConfig, got"):
        select("fp8", layer)
    with pytest.raises(TypeError, match=r"a layer is described by moe_rules\.FusedMoEConfig, got"):
        Selector(load_platform("cuda"), {}).select("fp8", layer)


@pytest.mark.parametrize("oracle", [None, [], 8, "fp9", {}])
def test_what_is_no_oracle(oracle: Any) -> None:
    message = re.escape(f"the rules of cuda have no oracle {oracle!r}")
    with pytest.raises(FactError, match=message):
        select(oracle, LAYER)
    with pytest.raises(FactError, match=message):
        Selector(load_platform("cuda"), {}).decide(oracle, {})


@pytest.mark.parametrize("key", [3, [], {}, "kFp8", object])
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(FactError, match="quantization key"):
        select("fp8", LAYER, key)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"machine": 3}, "a machine is a Machine, the name of one or a recorded file, got 3"),
        ({"machine": {}}, "a machine is a Machine, the name of one or a recorded file, got {}"),
        ({"rules": 3}, "overlays come in a list, as ['mine'], got 3"),
        ({"rules": None}, "overlays come in a list, as ['mine'], got None"),
        ({"rules": Path("mine")}, "overlays come in a list, as ['mine'], got"),
        ({"environ": []}, "environ is a mapping of variables to their text, got []"),
        ({"environ": {"VLLM_USE_DEEP_GEMM": 1}}, "got VLLM_USE_DEEP_GEMM=1"),
        ({"environ": {"VLLM_ROCM_USE_AITER": None}}, "got VLLM_ROCM_USE_AITER=None"),
        ({"environ": {"MOE_RULES_BACKEND": {}}}, "got MOE_RULES_BACKEND={}"),
    ],
)
def test_arguments_of_another_class(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        select("fp8", LAYER, **given)


def test_a_machine_is_recorded_at_a_path(tmp_path: Path) -> None:
    file = tmp_path / "machine.yaml"
    file.write_text(load_machine("b200").to_yaml(), encoding="utf-8")
    found = select("fp8", LAYER, *KEYS, machine=file)
    assert found.facts["compute_capability"] == (10, 0)


def test_what_torch_calls_a_device_is_no_machine() -> None:
    with pytest.raises(MachineError, match=r"is a kind of device; machines of it: .*h100"):
        select("fp8", LAYER, machine="cuda:0")


def test_a_selector_takes_names_of_keys() -> None:
    selector = Selector(load_platform("cuda"), load_machine("h100").facts())
    by_name = selector.select("fp8", LAYER, *KEYS)
    by_value = selector.select("fp8", LAYER, *(NAMED_KEYS[key] for key in KEYS))
    assert (by_name.backend, by_name.facts) == (by_value.backend, by_value.facts)


def test_a_selector_takes_facts_of_the_vocabulary_alone() -> None:
    rules = load_platform("cuda")
    with pytest.raises(FactError, match="there is no fact 'compute_capabilty'; did you mean"):
        Selector(rules, {"compute_capabilty": (9, 0)})
    assert Selector(rules, {"compute_capability": "9.0"}).constants == {
        "compute_capability": (9, 0)
    }
    selector = Selector(rules, load_machine("h100").facts())
    with pytest.raises(FactError, match="there is no fact 'num_expert'; did you mean"):
        selector.decide("fp8", {"num_expert": 8})
    with pytest.raises(FactError, match="num_experts cannot be 0; it is an integer from 1 on"):
        selector.decide("fp8", {"num_experts": 0})
    with pytest.raises(TypeError, match="facts are a mapping of their names to values, got None"):
        selector.decide("fp8", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rules are what load_platform returns, got None"):
        Selector(None, {})  # type: ignore[arg-type]


def test_a_platform_exists() -> None:
    with pytest.raises(FactError, match="device cannot be 'nvidia'"):
        load_platform("nvidia")
    with pytest.raises(TypeError, match="overlays come in a list"):
        load_platform("cuda", "mine")  # type: ignore[arg-type]


@dataclass(frozen=True)
class EngineLayer(FusedMoEConfig):
    """A layer of an engine, with attributes of its own."""

    device: str = "rocm"
    num_tokens: int = 1


def test_attributes_of_a_subclass_are_no_facts() -> None:
    layer = EngineLayer(**vars(LAYER))
    decision = select("fp8", layer, *KEYS)
    assert decision.facts == select("fp8", LAYER, *KEYS).facts
