"""Ordinary layers: those of the example models, as they are usually spread over devices."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from moe_rules.machines.machine import load_machine
from moe_rules.models.derive import derive_layers
from moe_rules.selectors.facts import layer_facts
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.layer import FusedMoEParallelConfig

MODELS = Path(__file__).parents[2] / "examples" / "models"
_RANKS = 8

Facts = dict[str, FactValue]


@functools.cache
def ordinary_layers() -> Mapping[str, Facts]:
    """The layer facts of each example model's first kind of MoE layer, on one device."""
    found: dict[str, Facts] = {}
    machine = load_machine("h100").facts()
    for path in sorted(MODELS.glob("*.json")):
        config = json.loads(path.read_bytes())
        layer = derive_layers(config, machine)[0]
        facts = {n: v for n, v in layer_facts(layer.moe).items() if FACTS[n].group == "layer"}
        found[path.stem] = {**facts, "model_type": config.get("model_type")}
    return found


@functools.cache
def ordinary_parallel() -> Mapping[str, Facts]:
    """Ways to spread a layer: over no ranks, by each kind of parallelism, and each exchange."""
    ways = {
        "one": FusedMoEParallelConfig.make(),
        "tp2": FusedMoEParallelConfig.make(tp_size=2),
        "tp": FusedMoEParallelConfig.make(tp_size=_RANKS),
        "dp": FusedMoEParallelConfig.make(dp_size=_RANKS),
        "tp ep": FusedMoEParallelConfig.make(tp_size=_RANKS, enable_expert_parallel=True),
    }
    for exchange in FACTS["all2all_backend"].values:
        for balanced in (False, True):
            ways[f"dp ep {exchange}{' eplb' if balanced else ''}"] = FusedMoEParallelConfig.make(
                dp_size=_RANKS,
                enable_expert_parallel=True,
                all2all_backend=exchange,
                enable_eplb=balanced,
            )
    return {
        name: {**vars(one), "engine_enable_eplb": one.enable_eplb} for name, one in ways.items()
    }


def ordinary(model: str, way: str) -> Facts:
    """The facts of a model's layer, spread in a way. Raises KeyError."""
    parallel = ordinary_parallel()[way]
    facts = {**ordinary_layers()[model], **parallel}
    ranks = int(str(parallel["tp_size"]))
    for name in ("", "_unpadded"):
        size = f"intermediate_size_per_partition{name}"
        facts[size] = int(str(facts["intermediate_size"])) // ranks
    return facts
