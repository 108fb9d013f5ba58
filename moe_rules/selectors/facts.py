"""What is asked of a selector, as facts of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping

from moe_rules.engine.plan import FactMap
from moe_rules.vocabulary.fact_values import (
    FactError,
    FactValue,
    did_you_mean,
    parse_quant_key,
    parse_value,
)
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.layer import LAYER_FIELDS, PARALLEL_FIELDS, FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey

Key = QuantKey | str | None
"""A quantization key, or the name of one."""
Layer = tuple[FusedMoEConfig, QuantKey | None, QuantKey | None, Mapping[str, FactValue]]
"""What is asked of one layer: with the keys of weights and activations, and further facts."""


def layer_facts(config: FusedMoEConfig) -> FactMap:
    """The layer and parallel facts of a layer, as the rules name them."""
    # The fields alone: a subclass may have attributes that are called as other facts are.
    parallel = config.moe_parallel_config
    facts: FactMap = {name: getattr(config, name) for name in LAYER_FIELDS}
    return facts | {name: getattr(parallel, name) for name in PARALLEL_FIELDS}


def facts_of(asked: Layer) -> FactMap:
    """All that is asked of a layer, as facts."""
    config, weight_key, activation_key, others = asked
    keys = {"weight_key": weight_key, "activation_key": activation_key}
    return {**layer_facts(config), **keys, **others}


def checked(
    config: FusedMoEConfig, weight_key: Key, activation_key: Key, others: Mapping[str, FactValue]
) -> Layer:
    """What is asked of a layer, everything of its type.

    Raises FactError for a key or fact that does not exist, TypeError for what is no layer.
    """
    if not isinstance(config, FusedMoEConfig):
        raise TypeError(
            f"a layer is described by moe_rules.FusedMoEConfig, got {type(config)}; its from_dict "
            "makes one of a mapping, and moe_rules.oracles takes vLLM's"
        )
    return (
        config,
        None if weight_key is None else parse_quant_key(weight_key),
        None if activation_key is None else parse_quant_key(activation_key),
        others and checked_facts(others),
    )


def checked_facts(facts: Mapping[str, FactValue]) -> FactMap:
    """Facts of the vocabulary by name, each of its type. Raises FactError for any other."""
    if type(facts) is not dict and not isinstance(facts, Mapping):  # which takes long to find out
        raise TypeError(f"facts are a mapping of their names to values, got {facts!r}")
    found: FactMap = {}
    for name, value in facts.items():
        fact = FACTS.get(name)
        if fact is None:
            raise FactError(f"there is no fact {name!r}{did_you_mean(name, FACTS)}")
        found[name] = parse_value(fact, value)
    return found
