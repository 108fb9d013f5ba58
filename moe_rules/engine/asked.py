"""Which facts an oracle's rules look at: what need not be found out about a deployment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moe_rules.language.conditions import Condition
from moe_rules.language.rules import PlatformRules, ValueOf
from moe_rules.vocabulary.record import Record


def asked_facts(rules: PlatformRules, oracle: str) -> frozenset[str]:
    """The names of every fact an oracle may test, also through facts that are derived."""
    table = rules.oracles[oracle]
    names = {"moe_backend", *_names(table)}
    if table.variants is not None:
        names.add(table.variants.fact)
    for derived in reversed(rules.derived):  # a derived fact may follow from earlier ones
        if derived.fact.name in names:
            names.update(_names(derived.cases))
    return frozenset(names)


def _names(node: object) -> Iterator[str]:
    if isinstance(node, Condition):
        yield from node.fact_names()
    elif isinstance(node, ValueOf):
        yield node.fact
    elif isinstance(node, Mapping):
        yield from _names(tuple(node.values()))
    elif isinstance(node, tuple):
        for part in node:
            yield from _names(part)
    elif isinstance(node, Record):
        yield from _names(tuple(vars(node).values()))
