"""The options of a quantization method as facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.vocabulary.fact_values import FactValue


def option_facts(options: Mapping[str, Any]) -> dict[str, FactValue]:
    """The options of a quantization method, its checkpoint format among them, as facts."""
    facts = dict(options)
    checkpoint = facts.pop("quant_config", None)
    if checkpoint is not None:
        kind = {"checkpoint_format": checkpoint["kind"]}
        absent = ("num_bits", "group_size", "symmetric", "strategy", "actorder", "zero_point")
        facts |= dict.fromkeys((*absent, "desc_act"))
        facts |= {**kind, **{name: v for name, v in checkpoint.items() if name != "kind"}}
    return facts
