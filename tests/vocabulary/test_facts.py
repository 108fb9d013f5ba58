"""Facts: values from text, domains, and the layer they describe."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.vocabulary.fact_values import FactError, did_you_mean, in_words, parse_value, plain
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig, dtype_name
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
        ({"activation": "silo"}, "unknown activation 'silo'"),
        ({"routing_method": "Best"}, "unknown routing_method"),
        ({"in_dtype": "int8"}, "unsupported dtype"),
        (
            {"moe_parallel_config": FusedMoEParallelConfig(tp_size=5)},
            "not divisible by tp_size 5",
        ),
    ],
)
def test_impossible_layers(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusedMoEConfig(**{**SIZES, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["bf16", "bfloat16", "torch.bfloat16"])
def test_dtype_names(dtype: str) -> None:
    assert dtype_name(dtype) == "bf16"


def test_router_logits_default_to_the_layers_dtype() -> None:
    assert FusedMoEConfig(**SIZES, in_dtype="fp16").router_logits_dtype == "fp16"
