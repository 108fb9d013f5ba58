from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_rules.models import (
    CheckpointRefusedError,
    Deployment,
    UnknownModelError,
    derive_layers,
)
from tests.models.checkpoints import CPU, EXAMPLES, H100

EXPECTED = {
    "DeepSeek-V3": ("fp8", 256, 8, 7168, 2048, 58, "DeepSeekV3"),
    "Mixtral-8x7B": ("unquantized", 8, 2, 4096, 14336, 32, "RenormalizeNaive"),
    "Qwen3-235B-A22B": ("unquantized", 128, 8, 4096, 1536, 94, "RenormalizeNaive"),
    "Qwen3-30B-A3B": ("unquantized", 128, 8, 2048, 768, 48, "RenormalizeNaive"),
    "Qwen3-30B-A3B-FP8": ("fp8", 128, 8, 2048, 768, 48, "RenormalizeNaive"),
    "Qwen3-30B-A3B-GPTQ-Int4": ("int_wna16", 128, 8, 2048, 768, 48, "RenormalizeNaive"),
    "gpt-oss-120b": ("mxfp4", 128, 4, 2880, 2880, 36, "RenormalizeNaive"),
    "toy-moe": ("unquantized", 8, 2, 256, 512, 2, "RenormalizeNaive"),
}


def test_every_example_is_expected() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.json")} == set(EXPECTED)


@pytest.mark.parametrize("machine", [H100, CPU])
@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, machine: dict[str, object]) -> None:
    config = json.loads((EXAMPLES / f"{name}.json").read_bytes())
    (layer,) = derive_layers(config, machine)
    moe = layer.moe
    assert EXPECTED[name] == (
        layer.oracle,
        moe.num_experts,
        moe.experts_per_token,
        moe.hidden_dim,
        moe.intermediate_size,
        len(layer.layers),
        moe.routing_method,
    )


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        inner = [_paths(part, (*path, key)) for key, part in value.items()]
    elif isinstance(value, list):
        inner = [_paths(part, (*path, index)) for index, part in enumerate(value[:2])]
    else:
        inner = []
    return [*([path] if path else []), *(one for some in inner for one in some)]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), name=st.sampled_from(sorted(EXPECTED)), junk=JUNK)
def test_a_spoilt_configuration_is_derived_or_refused(
    data: st.DataObject, name: str, junk: object
) -> None:
    """Whatever stands in any place of a file: layers or a reason, no other error."""
    config = json.loads(Path(EXAMPLES / f"{name}.json").read_bytes())
    *outer, last = data.draw(st.sampled_from(_paths(config)))
    target = config
    for key in outer:
        target = target[key]
    target[last] = junk
    with suppress(CheckpointRefusedError, UnknownModelError):
        derive_layers(config, H100, Deployment(tensor_parallel_size=2))
