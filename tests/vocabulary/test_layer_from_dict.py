"""A layer of plain values is the one that the constructor makes of them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from moe_rules.vocabulary.fact_values import FactError
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig

SIZES = {"num_experts": 8, "experts_per_token": 2, "hidden_dim": 64, "intermediate_size": 96}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"in_dtype": "torch.float16", "intermediate_size_per_partition_unpadded": 40},
        {"parallel": {"tp_size": 2}, "swiglu_limit": 7.0, "router_logits_dtype": "float32"},
    ],
)
def test_it_is_as_constructed(given: dict[str, Any]) -> None:
    made = FusedMoEConfig.from_dict({**SIZES, **given})
    parallel = FusedMoEParallelConfig(**given.pop("parallel", {}))
    constructed = FusedMoEConfig(**SIZES, **given, moe_parallel_config=parallel)
    assert made == constructed
    assert hash(made) == hash(constructed)
    assert repr(made) == repr(constructed)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.num_experts = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_expert": 8}, "a layer has no fact 'num_expert'; did you mean 'num_experts'?"),
        ({3: 8}, "a layer has no fact 3"),
        ({"moe_parallel_config": None}, "a layer has no fact 'moe_parallel_config'"),
        ({"parallel": {"tp": 2}}, "parallel has no fact 'tp'"),
        ({"parallel": None}, "parallel is a mapping of tp_size, "),
        ({"parallel": {"tp_size": 0}}, "tp_size cannot be 0"),
        ({"activation": "tanh"}, "activation cannot be 'tanh'"),
        ({"parallel": {"tp_size": 7}}, "not divisible by tp_size 7"),
    ],
)
def test_what_is_wrong_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(FactError, match=re.escape(message)):
        FusedMoEConfig.from_dict({**SIZES, **given})


@pytest.mark.parametrize("data", [None, [1], "layer"])
def test_what_is_no_mapping_is_said(data: Any) -> None:
    with pytest.raises(FactError, match="a layer is a mapping of num_experts, "):
        FusedMoEConfig.from_dict(data)


@pytest.mark.parametrize("name", SIZES)
def test_what_is_missing_is_said(name: str) -> None:
    rest = {key: size for key, size in SIZES.items() if key != name}
    with pytest.raises(FactError, match=f"a layer lacks {name}"):
        FusedMoEConfig.from_dict(rest)
