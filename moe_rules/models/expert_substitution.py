"""Checkpoints whose experts were partly replaced by constants (MoNE): fewer experts in a layer.

Source: vLLM's ``fused_moe/expert_substitution.py``. The router keeps all experts; weights exist
only for those that are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.hf_config import HfConfig
from moe_rules.models.quantization import Question
from moe_rules.vocabulary.layer import FusedMoEConfig

ROUTER = {
    "preserve_logical_expert_ids": True,
    "preserve_router_weights": True,
    "renormalize_after_substitution": False,
}
"""What a declared substitution may say of the router."""

Substituted = Mapping[int, frozenset[int]]
"""The replaced experts of each decoder layer that has some."""


def substituted_experts(config: Mapping[str, Any], text: HfConfig) -> Substituted:
    """The replaced experts that a configuration declares; empty for almost every model.

    Raises CheckpointRefusedError for a declaration that vLLM does not take.
    """
    approximate = text.get("approximate_experts")
    if approximate is None:
        approximate = config.get("approximate_experts")
    declared = _declared(config)
    if approximate is not None and declared is not None:
        raise _refused("approximate_experts and expert_substitution exclude each other")
    if approximate is None and declared is None:
        return {}
    found = _declared_experts(declared) if approximate is None else _approximate(approximate)
    return {layer: experts for layer, experts in found.items() if experts}


def _declared(config: Mapping[str, Any]) -> Any:
    compression = config.get("compression_config")
    transform = compression.get("transform_config") if isinstance(compression, Mapping) else None
    return transform.get("expert_substitution") if isinstance(transform, Mapping) else None


def _approximate(given: Any) -> dict[int, frozenset[int]]:
    """``approximate_experts``: layer index to the experts replaced there."""
    if not isinstance(given, Mapping):
        raise _refused("approximate_experts must map layer indices to lists of experts")
    return {
        _integer(layer, "approximate_experts"): _experts(experts or (), f"layer {layer}")
        for layer, experts in given.items()
    }


def _declared_experts(given: Any) -> dict[int, frozenset[int]]:
    """``expert_substitution``: module path to its replacements by expert."""
    if not isinstance(given, Mapping) or given.get("version") != 1:
        raise _refused("expert_substitution must be a mapping of version 1")
    if given.get("router_semantics") != ROUTER:
        raise _refused("expert_substitution must leave the routing as it is")
    targets = given.get("targets")
    if not isinstance(targets, Mapping):
        raise _refused("expert_substitution.targets must map modules to their replacements")
    found: dict[int, frozenset[int]] = {}
    for path, target in targets.items():
        indices = [int(part) for part in str(path).split(".") if part.isdigit()]
        if len(indices) != 1 or indices[0] in found:
            raise _refused(f"expert_substitution.targets: {path!r} must name one decoder layer")
        replacements = target.get("replacements") if isinstance(target, Mapping) else None
        if not isinstance(replacements, Mapping):
            raise _refused(f"expert_substitution.targets: {path!r} has no replacements")
        if target.get("weight_layout") != "compact_retained_experts":
            raise _refused(f"{path!r}: weight_layout must be compact_retained_experts")
        formats = (one.get("format") for one in replacements.values() if isinstance(one, Mapping))
        if any(form != "constant-v1" for form in formats):
            raise _refused(f"{path!r}: the format of a replacement must be constant-v1")
        found[indices[0]] = _experts(replacements, str(path))
    return found


def _experts(given: Any, where: str) -> frozenset[int]:
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise _refused(f"{where}: a list of experts was expected, not {given!r}")
    experts = [_integer(expert, where) for expert in given]
    if len(set(experts)) != len(experts) or min(experts, default=0) < 0:
        raise _refused(f"{where}: replaced experts must be unique and not negative")
    return frozenset(experts)


def _integer(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise _refused(f"{where}: {value!r} is no index") from None


def retained_experts(num_experts: int, replaced: frozenset[int], layer: int) -> int:
    """How many experts of a layer have weights. Raises CheckpointRefusedError."""
    if replaced and max(replaced) >= num_experts:
        raise _refused(f"layer {layer} has no expert {max(replaced)} to replace")
    if len(replaced) == num_experts:
        raise _refused(f"layer {layer}: at least one expert must be left")
    return num_experts - len(replaced)


def refuse_substituted(moe: FusedMoEConfig, question: Question, *, own_class: bool) -> None:
    """Raise CheckpointRefusedError for what vLLM does not do with a layer of replaced experts.

    ``own_class``: the model's layers have an experts class or transforms of their own.
    """
    parallel = moe.moe_parallel_config
    against = {
        "an experts class of the model's own": own_class,
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
