"""Layers as vLLM describes them, read as facts: no vLLM is needed to be one of its classes."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

import pytest

from moe_rules.oracles.vllm_objects import layer_facts
from moe_rules.selectors import facts as own
from moe_rules.vocabulary.fact_values import FactError
from moe_rules.vocabulary.layer import FusedMoEParallelConfig
from tests.engine.layers import LAYER

MoEActivation = Enum("MoEActivation", {"SILU": "silu"})
RoutingMethodType = Enum("RoutingMethodType", {"Renormalize": 1})


def of_vllm(**changes: Any) -> Any:
    """The layer of the tests as an object of vLLM's class, with other values for some fields."""
    values = {field.name: getattr(LAYER, field.name) for field in dataclasses.fields(LAYER)}
    values |= {"activation": MoEActivation.SILU, "routing_method": RoutingMethodType.Renormalize}
    made = dataclasses.make_dataclass("FusedMoEConfig", values, namespace={"__module__": "vllm.x"})
    return made(**{**values, **changes})


def test_a_layer_is_read_as_ours_is() -> None:
    expected = dataclasses.replace(LAYER, routing_method="Renormalize")
    assert layer_facts(of_vllm(in_dtype="torch.bfloat16")) == own.layer_facts(expected)


@pytest.mark.parametrize("name", ["num_experts", "experts_per_token", "hidden_dim"])
@pytest.mark.parametrize("size", [0, -1, True, None])
def test_sizes_that_no_layer_has_are_refused(name: str, size: Any) -> None:
    with pytest.raises(FactError, match=f"{name} cannot be"):
        layer_facts(of_vllm(**{name: size}))


def test_so_are_those_of_its_parallelism() -> None:
    parallel = FusedMoEParallelConfig()
    object.__setattr__(parallel, "ep_size", 0)
    with pytest.raises(FactError, match="ep_size cannot be 0"):
        layer_facts(of_vllm(moe_parallel_config=parallel))
