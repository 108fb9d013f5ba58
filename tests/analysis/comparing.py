"""Holds what the compiled form says of a deployment against what the engine decides."""

from __future__ import annotations

from collections.abc import Mapping

from moe_rules.analysis.states import Result
from moe_rules.engine.decision import Decision
from moe_rules.engine.selector import Selector
from moe_rules.language.rules import PlatformRules
from moe_rules.vocabulary.fact_values import FactValue


def decided(rules: PlatformRules, oracle: str, facts: Mapping[str, FactValue]) -> Result:
    """What the engine decides for a deployment, in the terms of the compiled form."""
    return result_of(Selector(rules, {}, unknown=()).decide(oracle, facts))


def result_of(decision: Decision) -> Result:
    """A decision of the engine in the terms of the compiled form."""
    refusal = decision._outcome.refusal
    return Result(
        decision.how,
        decision.backend,
        decision.kernel,
        None if refusal is None else refusal.kind,
        None if refusal is None else refusal.why,
    )
