"""Whatever stands in any place of a file: an answer or a reason, soon, and never another error.

``FUZZ_EXAMPLES=20000 pytest tests/models/test_fuzz.py`` looks longer.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import load_machine
from moe_rules.models import (
    CheckpointRefusedError,
    Deployment,
    UnknownModelError,
    derive_layers,
)
from moe_rules.models.options import option_facts
from moe_rules.selectors.facts import layer_facts as facts_of_layer
from moe_rules.selectors.selector import Selector
from tests.models.fuzzing import BLOCKS, JUNK, corpus, paths_of, spoilt

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
CORPUS = corpus()
MACHINES = ("h100", "b200", "a100", "mi300x", "mi350x", "xpu", "x86-amx", "tpu")
DEPLOYMENTS = (
    Deployment(),
    Deployment(tensor_parallel_size=2),
    Deployment(tensor_parallel_size=8, data_parallel_size=2, enable_expert_parallel=True),
)
REFUSALS = (CheckpointRefusedError, UnknownModelError)


@cache
def selector(machine: str) -> Selector:
    found = load_machine(machine)
    return Selector(load_platform(found.device), found.facts())


def answer(
    configuration: dict[str, Any], machine: str, deployment: Deployment, **files: Any
) -> str:
    """Every decision for a model in full, or why there is none."""
    chosen = selector(machine)
    try:
        layers = derive_layers(configuration, chosen.constants, deployment, **files)
    except REFUSALS as error:
        return str(error)
    answers = []
    for layer in layers:
        if layer.oracle is None:
            answers.append(json.dumps(layer.notes))
            continue
        facts = {
            **facts_of_layer(layer.moe),
            **option_facts(layer.options),
            **layer.runtime,
            "weight_key": layer.weight_key,
            "activation_key": layer.activation_key,
        }
        decision = chosen.decide(layer.oracle, facts)
        answers.append(json.dumps(decision.to_dict(), allow_nan=False) + str(decision.error))
    return "\n".join(answers)


@pytest.mark.parametrize("name", CORPUS)
def test_the_unspoilt_ones_are_well_typed(name: str) -> None:
    assert answer(CORPUS[name], "h100", Deployment()).startswith(("{", "["))


@pytest.fixture(scope="module", autouse=True)
def rules_are_read() -> None:
    """What takes time once takes none of an example's."""
    for machine in MACHINES:
        selector(machine)


ON_ANY = settings(
    max_examples=EXAMPLES,
    deadline=timedelta(seconds=20),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@ON_ANY
@given(
    data=st.data(),
    name=st.sampled_from(sorted(CORPUS)),
    junk=st.lists(JUNK, min_size=1, max_size=2),
    machine=st.sampled_from(MACHINES),
    deployment=st.sampled_from(DEPLOYMENTS),
)
def test_a_spoilt_configuration_is_answered_or_refused(
    data: st.DataObject, name: str, junk: list[Any], machine: str, deployment: Deployment
) -> None:
    configuration = CORPUS[name]
    for one in junk:
        path = data.draw(st.sampled_from(list(paths_of(configuration))))
        configuration = spoilt(configuration, path, one)
    assert "malformed" not in answer(configuration, machine, deployment)


@ON_ANY
@given(
    data=st.data(),
    name=st.sampled_from(sorted(name for name in BLOCKS if "modelopt" in name)),
    junk=JUNK,
)
def test_a_spoilt_quantization_file_is_answered_or_refused(
    data: st.DataObject, name: str, junk: Any
) -> None:
    path = data.draw(st.sampled_from(list(paths_of(BLOCKS[name]))))
    block = spoilt(BLOCKS[name], path, junk)
    said = answer(CORPUS["toy-moe"], "b200", Deployment(), hf_quant_config=block)
    assert "malformed" not in said
