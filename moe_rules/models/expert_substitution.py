"""Checkpoints whose experts were partly replaced by constants (MoNE): fewer experts in a layer.

Source: vLLM's ``fused_moe/expert_substitution.py``. The router keeps all experts; weights exist
only for those that are left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from moe_rules.models.conditions import descend
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.hf_config import HfConfig
from moe_rules.models.place import ROUTED_EXPERTS
from moe_rules.models.quantization import Question
from moe_rules.models.typed import (
    Misfit,
    Shape,
    anything,
    below,
    integer,
    listed,
    mapped,
    optional,
    read,
    text,
)
from moe_rules.vocabulary.layer import FusedMoEConfig

ROUTER = {
    "preserve_logical_expert_ids": True,
    "preserve_router_weights": True,
    "renormalize_after_substitution": False,
}
"""What a declared substitution may say of the router."""

APPROXIMATE = "approximate_experts"
DECLARED = "compression_config.transform_config.expert_substitution"
INDEX = re.compile("[0-9]{1,9}")


def _index(value: object) -> int:
    given = text(value)
    if not INDEX.fullmatch(given):
        raise Misfit("an index", value)
    return int(given)


_APPROXIMATE = mapped(optional(listed(integer)), _index)
_TARGET = Shape(
    required=("replacements",),
    weight_layout=optional(text),
    replacements=mapped(Shape(format=optional(text)), _index),
)
_DECLARATION = Shape(
    required=("targets",),
    version=optional(integer),
    router_semantics=optional(mapped(anything)),
    targets=mapped(_TARGET),
)
Substituted = Mapping[int, frozenset[int]]
"""The replaced experts of each decoder layer that has some."""


def substituted_experts(whole: HfConfig, text: HfConfig) -> Substituted:
    """The replaced experts that a configuration declares; empty for almost every model.

    Raises CheckpointRefusedError for a declaration that vLLM does not take.
    """
    holder = whole if text.get(APPROXIMATE) is None else text
    approximate, declared = holder.get(APPROXIMATE), descend(whole.fields, DECLARED)
    if approximate is not None and declared is not None:
        raise _refused("approximate_experts and expert_substitution exclude each other")
    found: dict[int, frozenset[int]] = {}
    if approximate is not None:
        where = holder.where(APPROXIMATE)
        given = read(_APPROXIMATE, approximate, where)
        found = {
            layer: _unique(experts or (), below(where, layer)) for layer, experts in given.items()
        }
    elif declared is not None:
        read(_DECLARATION, declared, whole.where(DECLARED))
        found = _declared_experts(declared)
    return {layer: experts for layer, experts in found.items() if experts}


def _declared_experts(given: Mapping[str, Any]) -> dict[int, frozenset[int]]:
    """``expert_substitution``: module path to its replacements by expert."""
    if given.get("version") != 1:
        raise _refused("expert_substitution must be of version 1")
    if given.get("router_semantics") != ROUTER:
        raise _refused("expert_substitution must leave the routing as it is")
    found: dict[int, frozenset[int]] = {}
    for path, target in given["targets"].items():
        indices = [int(part) for part in path.split(".") if INDEX.fullmatch(part)]
        if len(indices) != 1 or indices[0] in found:
            raise _refused(f"expert_substitution.targets: {path!r} must name one decoder layer")
        if target.get("weight_layout") != "compact_retained_experts":
            raise _refused(f"{path!r}: weight_layout must be compact_retained_experts")
        if any(one.get("format") != "constant-v1" for one in target["replacements"].values()):
            raise _refused(f"{path!r}: the format of a replacement must be constant-v1")
        found[indices[0]] = _unique(map(int, target["replacements"]), path)
    return found


def _unique(given: Iterable[int], where: str) -> frozenset[int]:
    experts = list(given)
    if len(set(experts)) != len(experts) or min(experts, default=0) < 0:
        raise _refused(f"{where}: replaced experts must be unique and not negative")
    return frozenset(experts)


def retained_experts(num_experts: int, replaced: frozenset[int], layer: int) -> int:
    """How many experts of a layer have weights. Raises CheckpointRefusedError."""
    if replaced and max(replaced) >= num_experts:
        raise _refused(f"layer {layer} has no expert {max(replaced)} to replace")
    if len(replaced) == num_experts:
        raise _refused(f"layer {layer}: at least one expert must be left")
    return num_experts - len(replaced)


def refuse_substituted(
    moe: FusedMoEConfig, question: Question, experts_class: str, *, transformed: bool
) -> None:
    """Raise CheckpointRefusedError for what vLLM does not do with a layer of replaced experts.

    ``transformed``: the layers transform what goes into their experts or comes out of them.
    """
    parallel = moe.moe_parallel_config
    against = {
        "an experts class of the model's own": experts_class != ROUTED_EXPERTS,
        "transforms around the experts": transformed,
        "quantized experts": question.oracle != "unquantized",
        "LoRA": moe.is_lora_enabled,
        "EPLB": parallel.enable_eplb,
        "expert parallelism": parallel.use_ep,
        "data parallelism": parallel.dp_size > 1,
        "prefill context parallelism": parallel.pcp_size > 1,
        "sequence parallelism": parallel.sp_size > 1,
        "router weights on the experts' input": moe.routing_method == "Llama4",
    }
    found = [name for name, given in against.items() if given]
    if found:
        raise _refused(f"experts replaced by constants do not go with {', '.join(found)}")


def _refused(why: str) -> CheckpointRefusedError:
    return CheckpointRefusedError(why, "model")
