"""vLLM's ``quantization_config``: what each layer of a Qwen3 MoE asks in vLLM 0.33.0.

``coverage/online.json`` was recorded by running vLLM's engine configuration and model class on a
simulated B200.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, Deployment, derive_layers
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey
from tests.models.checkpoints import qwen3

B200 = {"device": "cuda", "compute_capability": (10, 0)}
RECORDED = json.loads((Path(__file__).parent / "coverage" / "online.json").read_bytes())


def named(key: str | None) -> QuantKey | None:
    return None if key is None else NAMED_KEYS[key]


@pytest.mark.parametrize("case", RECORDED, ids=str)
def test_each_layer_asks_what_it_asks_in_vllm(case: dict[str, Any]) -> None:
    deployment = Deployment(
        quantization=case["quantization"], quantization_config=case["quantization_config"]
    )
    config = qwen3(case["checkpoint"])
    if "refused" in case:
        with pytest.raises(CheckpointRefusedError):
            derive_layers(config, B200, deployment)
        return
    layers = derive_layers(config, B200, deployment)
    ours = {
        index: (layer.oracle, layer.weight_key, layer.activation_key)
        for layer in layers
        for index in layer.layers
    }
    theirs = {
        index: (oracle, named(weight), named(activation))
        for index, (oracle, weight, activation) in enumerate(case["layers"])
    }
    assert ours == theirs
    overrides = {layer.runtime.get("moe_activation_override") for layer in layers}
    assert overrides == {named(case["override"])}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"moe": 3}, "quantization_config: moe must be text, or weight and activation"),
        ({"ignore": "x"}, "ignore must be a list"),
        ({"targets": {"re:(": "mxfp8"}}, "regular expression"),
    ],
)
def test_values_of_a_wrong_type(given: dict[str, Any], why: str) -> None:
    deployment = Deployment(quantization="online", quantization_config=given)
    with pytest.raises(CheckpointRefusedError, match=why):
        derive_layers(qwen3(), B200, deployment)
