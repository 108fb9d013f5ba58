"""Configurations that transformers 5.24.0 writes by default, as vLLM 0.33.0 reads them.

``coverage/defaults.jsonl.gz`` was recorded by running vLLM's model classes on a simulated H100: the
layers that they build, with the facts of each, or the error. A configuration called "completed"
has been given the fields that vLLM misses in the default one.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, UnknownModelError, derive_layers
from tests.models.checkpoints import H100

DATA = Path(__file__).parent / "coverage" / "defaults.jsonl.gz"
RECORDED = [json.loads(line) for line in gzip.decompress(DATA.read_bytes()).splitlines()]


def named(recorded: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("case", recorded, ids=[case["name"] for case in recorded])


@named([case for case in RECORDED if "kinds" in case])
def test_layers_of_default_configurations(case: dict[str, Any]) -> None:
    layers = derive_layers(case["config"], H100)
    ours = {
        index: {name: getattr(layer.moe, name) for name in kind["facts"]}
        for kind in case["kinds"]
        for layer in layers
        for index in layer.layers
    }
    theirs = {index: kind["facts"] for kind in case["kinds"] for index in kind["layers"]}
    if any(layer.oracle is None for layer in layers):
        assert not theirs
    else:
        assert ours == theirs
        modules = {kind["layers"][0]: kind["module"] for kind in case["kinds"]}
        assert all(
            layer.module == modules[layer.layers[0]]
            for layer in layers
            if layer.layers[0] in modules
        )


@named([case for case in RECORDED if "refused" in case])
def test_default_configurations_that_vllm_cannot_build(case: dict[str, Any]) -> None:
    with pytest.raises((CheckpointRefusedError, UnknownModelError)):
        derive_layers(case["config"], H100)
