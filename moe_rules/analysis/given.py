"""The facts that an oracle's rules meet, as diagrams: with what follows from them or is assumed."""

from __future__ import annotations

from moe_rules.analysis.conditions import Conditions, Facts
from moe_rules.analysis.diagram import Node
from moe_rules.analysis.questions import MISSING, REQUEST
from moe_rules.language.requested import ROLE
from moe_rules.language.rules import Oracle, PlatformRules, ValueOf
from moe_rules.vocabulary.fact_values import FactValue


def given_facts(conditions: Conditions, rules: PlatformRules, oracle: Oracle) -> Facts:
    """The supplied facts, with those that follow from them."""
    diagrams = conditions.diagrams
    facts: Facts = {}
    facts[REQUEST] = _requested(conditions, rules, oracle, facts)
    for derived in rules.derived:
        found = diagrams.leaf(MISSING)
        for when, value in reversed(derived.cases):
            case = value_of(conditions, value, facts)
            holds = conditions.holds(when, facts)
            # Where a case is open, neither it nor a later one is known to apply.
            opened = diagrams.choose(
                diagrams.map(lambda truth: truth is None, holds), diagrams.leaf(MISSING), found
            )
            found = diagrams.choose(holds, case, opened)
        facts[derived.fact.name] = found
    return facts


def assumed_facts(conditions: Conditions, oracle: Oracle, given: Facts) -> Facts:
    """The facts with those that the oracle assumes."""
    facts = dict(given)
    for assumption in oracle.assume:
        applies = conditions.applies(assumption.when, facts)
        assumed = conditions.assuming(assumption.values, facts)
        for name, _ in assumption.values:
            before = conditions.value(name, facts)
            facts[name] = conditions.diagrams.choose(applies, assumed[name], before)
    return facts


def _requested(conditions: Conditions, rules: PlatformRules, oracle: Oracle, facts: Facts) -> Node:
    """The request: the layer's own, or one of the rules for this oracle and a role."""
    diagrams = conditions.diagrams
    found = conditions.space.value(REQUEST)
    role = conditions.value(ROLE, facts) if rules.requested else None
    for asks_all in (True, False):
        for (of, name), request in rules.requested.items():
            if role is not None and name == (None if asks_all else oracle.name):
                is_role = equals(conditions, role, of)
                found = diagrams.choose(is_role, diagrams.leaf(request.backend), found)
    return found


def equals(conditions: Conditions, values: Node, wanted: FactValue) -> Node:
    """Where a diagram has a value."""
    return conditions.diagrams.map(lambda value: value == wanted, values)


def value_of(conditions: Conditions, value: FactValue | ValueOf, facts: Facts) -> Node:
    """The diagram of a value, which may be that of another fact."""
    if isinstance(value, ValueOf):
        return conditions.value(value.fact, facts)
    return conditions.diagrams.leaf(value)
