"""Holds what the compiled form says of a deployment against what the engine decides."""

from __future__ import annotations

from collections.abc import Mapping

from moe_rules.engine.selection import Result
from moe_rules.language.rules import PlatformRules
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactValue


def decided(rules: PlatformRules, oracle: str, facts: Mapping[str, FactValue]) -> Result:
    """What the engine decides for a deployment, in the terms of the compiled form."""
    return Selector(rules, {}, unknown=()).decide(oracle, facts).result
