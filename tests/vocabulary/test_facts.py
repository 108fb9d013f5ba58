"""Facts: values from text, domains, and the layer they describe."""

from __future__ import annotations

import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.vocabulary.fact_values import FactError, did_you_mean, in_words, parse_value, plain
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.layer import (
    LAYER_FIELDS,
    PARALLEL_FIELDS,
    FusedMoEConfig,
    FusedMoEParallelConfig,
    dtype_name,
)
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey, Scale

SCALE = {"dtype": "fp32", "static": True, "group_shape": "token"}
SIZES = {
    "num_experts": 8,
    "experts_per_token": 2,
    "hidden_dim": 64,
    "intermediate_size": 96,
}


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("compute_capability", "9.0", (9, 0)),
        ("compute_capability", [10, 3], (10, 3)),
        ("compute_capability", "none", None),
        ("use_ep", "true", True),
        ("VLLM_USE_DEEP_GEMM", "0", False),
        ("VLLM_USE_DEEP_GEMM", "unset", None),
        ("num_experts", "128", 128),
        ("swiglu_limit", 7, 7.0),
        ("activation", "silu", "silu"),
        ("weight_key", "kFp8StaticTensorSym", NAMED_KEYS["kFp8StaticTensorSym"]),
        ("weight_key", None, None),
    ],
)
def test_values_from_text(name: str, raw: object, value: object) -> None:
    assert parse_value(FACTS[name], raw) == value


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("num_experts", "many", "it is an integer"),
        ("num_experts", True, "it is an integer"),
        ("num_experts", "--8", "it is an integer"),
        ("ep_size", "-2", "it is an integer from 1 on"),
        ("hidden_dim", 0, "it is an integer from 1 on"),
        ("num_tokens", -1, "it is an integer from 0 on"),
        ("group_size", "-2", "it is an integer from -1 on, none"),
        ("swiglu_limit", "nan", "it is a number"),
        ("num_experts", None, "cannot be none"),
        ("activation", "silo", "did you mean 'silu'"),
        ("compute_capability", "9", 'write it as "9.0"'),
        ("compute_capability", "10.10", "'10.10' is not a version"),
        ("compute_capability", [10, -3], "'10.-3' is not a version"),
        ("weight_key", "kFp8", "unknown quantization key"),
        ("weight_key", {"dtype": "int8"}, "malformed quantization key"),
        ("use_ep", "maybe", "true, false"),
    ],
)
def test_values_outside_the_domain(name: str, raw: object, message: str) -> None:
    with pytest.raises(FactError, match=message):
        parse_value(FACTS[name], raw)


def test_every_fact_has_a_meaning_and_a_domain() -> None:
    for fact in FACTS.values():
        assert fact.meaning.endswith(".")
        assert fact.domain


def test_facts_of_a_layer_are_the_fields_that_describe_it() -> None:
    facts = {name for name, fact in FACTS.items() if fact.group in ("layer", "parallel")}
    described = {f.name for cls in (FusedMoEConfig, FusedMoEParallelConfig) for f in fields(cls)}
    assert facts <= described
    assert described - set(FACTS) == {"moe_parallel_config"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantKey(None, Scale(**SCALE)), "dtype of a key cannot be None"),  # type: ignore[arg-type]
        (lambda: QuantKey("int8", "fp32"), "scale of a key cannot be 'fp32'"),  # type: ignore[arg-type]
        (lambda: Scale("fp32", 1, (1, 32)), "static of a scale cannot be 1"),  # type: ignore[arg-type]
        (lambda: Scale("fp32", True, (1, 0)), "unknown group shape (1, 0)"),
    ],
)
def test_a_key_has_parts_of_their_types(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@given(st.sampled_from(sorted(NAMED_KEYS)))
def test_keys_survive_their_plain_form(name: str) -> None:
    key = NAMED_KEYS[name]
    assert QuantKey.from_dict(key.to_dict()) == key
    assert parse_value(FACTS["weight_key"], plain(key)) == key
    assert pickle.loads(pickle.dumps(key)) == key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symetric": False}, "a key has no 'symetric'"),
        ({"dtype": 5}, "dtype of a key cannot be 5"),
        ({"scale": None}, "scale of a key cannot be None"),
        ({"scale": {"dtype": "fp32", "group_shape": "token"}}, "a scale lacks 'static'"),
        ({"scale": {**SCALE, "static": "no"}}, "static of a scale cannot be 'no'"),
        ({"scale2": {**SCALE, "group_shape": [1, 2.5]}}, "unknown group shape [1, 2.5]"),
        ({"scale": {**SCALE, "group_shape": "rows"}}, "unknown group shape 'rows'"),
    ],
)
def test_a_key_is_read_whole_or_not_at_all(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FactError, match=re.escape(message)):
        parse_value(FACTS["weight_key"], {"dtype": "int8", "scale": SCALE, **changes})


def test_a_pickled_key_is_found_in_another_process() -> None:
    key = NAMED_KEYS["kFp8Static128BlockSym"]
    code = (
        "import pickle, sys; from moe_rules.vocabulary.quant_keys import NAMED_KEYS;"
        f"key = pickle.loads({pickle.dumps(key)!r});"
        "sys.exit(0 if key in set(NAMED_KEYS.values()) else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unnamed_keys_are_written_by_their_parts() -> None:
    key = QuantKey("fp8_e4m3", Scale("fp32", True, (64, 64)))
    assert key.name is None
    assert str(key) == "fp8_e4m3:fp32:static:64x64"


def test_values_in_words() -> None:
    assert [in_words(v) for v in (None, True, (9, 0), 7.0, "silu")] == [
        "none",
        "true",
        "9.0",
        "7",
        "silu",
    ]


def test_suggestions() -> None:
    assert did_you_mean("Triton", ["TRITON", "MARLIN"]) == "; did you mean 'TRITON'?"
    assert did_you_mean("xyz", ["TRITON"]) == ""


def test_layer_sizes_follow_from_parallelism() -> None:
    parallel = FusedMoEParallelConfig.make(tp_size=4)
    layer = FusedMoEConfig(**SIZES, moe_parallel_config=parallel)
    assert layer.intermediate_size_per_partition == 24
    expert = FusedMoEParallelConfig.make(tp_size=2, dp_size=4, enable_expert_parallel=True)
    layer = FusedMoEConfig(**SIZES, moe_parallel_config=expert)
    assert (expert.ep_size, expert.tp_size, layer.num_local_experts) == (8, 1, 1)
    assert layer.intermediate_size_per_partition == 96


def test_expert_parallelism_needs_more_than_one_rank() -> None:
    assert not FusedMoEParallelConfig.make(enable_expert_parallel=True).use_ep


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "silo"}, "activation cannot be 'silo'; did you mean 'silu'?"),
        ({"routing_method": "Best"}, "routing_method cannot be 'Best'"),
        ({"in_dtype": "int8"}, "unsupported dtype"),
        (
            {"moe_parallel_config": FusedMoEParallelConfig(tp_size=5)},
            "not divisible by tp_size 5",
        ),
        ({"moe_parallel_config": None}, "moe_parallel_config is a FusedMoEParallelConfig"),
    ],
)
def test_impossible_layers(change: dict[str, object], message: str) -> None:
    with pytest.raises(FactError, match=re.escape(message)):
        FusedMoEConfig(**{**SIZES, **change})  # type: ignore[arg-type]


OF_NO_TYPE = {
    "bool": (1, "true", None),
    "int": (0, -2, True, 2.0, "8", None, math.nan),
    "float": ("7", math.inf, True, [7.0]),
    "enum": (3, "best"),
    "string": (3, None),
}
"""What no fact of a layer or of its parallelism can be, by the fact's type."""


def made_with(name: str, value: object) -> object:
    """What has a fact of a layer or of its parallelism."""
    if name in PARALLEL_FIELDS:
        return FusedMoEParallelConfig(**{name: value})  # type: ignore[arg-type]
    return FusedMoEConfig(**{**SIZES, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted({*LAYER_FIELDS, *PARALLEL_FIELDS}))
def test_no_field_takes_what_its_fact_cannot_be(name: str) -> None:
    follows = name in ("router_logits_dtype", "intermediate_size_per_partition_unpadded")
    for value in OF_NO_TYPE[FACTS[name].type]:
        if value is not None or not follows:
            with pytest.raises(FactError):
                made_with(name, value)


def test_sizes_of_an_engine_are_checked_before_they_are_multiplied() -> None:
    with pytest.raises(FactError, match="tp_size cannot be '2'; it is an integer from 1 on"):
        FusedMoEParallelConfig.make(tp_size="2", dp_size=2)  # type: ignore[arg-type]


def test_scalars_of_numpy_and_torch_are_what_they_hold() -> None:
    made = FusedMoEConfig(
        num_experts=np.int64(8),
        experts_per_token=torch.tensor(2),
        hidden_dim=64,
        intermediate_size=np.int32(96),
        has_bias=np.bool_(True),
        swiglu_limit=np.float32(7),
        moe_parallel_config=FusedMoEParallelConfig(tp_size=np.int64(2)),
    )  # type: ignore[arg-type]
    parallel = FusedMoEParallelConfig(tp_size=2)
    expected = FusedMoEConfig(**SIZES, has_bias=True, swiglu_limit=7, moe_parallel_config=parallel)
    assert made == expected
    assert repr(made) == repr(expected)
    with pytest.raises(FactError, match="it is an integer from 1 on"):
        FusedMoEConfig(**{**SIZES, "num_experts": np.array([8])})


@pytest.mark.parametrize("dtype", ["bf16", "bfloat16", "torch.bfloat16"])
def test_dtype_names(dtype: str) -> None:
    assert dtype_name(dtype) == "bf16"


def test_router_logits_default_to_the_layers_dtype() -> None:
    assert FusedMoEConfig(**SIZES, in_dtype="fp16").router_logits_dtype == "fp16"
