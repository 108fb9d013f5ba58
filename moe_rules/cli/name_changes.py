"""Names that one of two rule sets knows and the other does not: requests, kernels, models, ..."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from moe_rules.cli.rule_sets import RuleSet
from moe_rules.language.rules import Oracle
from moe_rules.models.tables import Tables
from moe_rules.vocabulary.record import Record
from moe_rules.vocabulary.switches import SWITCHES

Where = tuple[str, str]
"""A platform, and an oracle there."""


class NameChange(Record):
    """A name that appears or vanishes. ``where`` are the platforms and oracles that it is for."""

    kind: str
    name: str
    appears: bool
    where: tuple[Where, ...]

    @property
    def in_words(self) -> str:
        """What becomes of it."""
        if self.kind == "fact":
            return "matters now" if self.appears else "matters no longer"
        return "appears" if self.appears else "vanishes"


def name_changes(
    before: RuleSet, after: RuleSet, asked: Collection[Where], *, models: bool
) -> list[NameChange]:
    """The names that differ of these oracles; ``models``: of architectures and methods, too."""
    found: dict[tuple[str, str, bool], list[Where]] = {}

    def compare(kind: str, one: Iterable[str], other: Iterable[str], where: list[Where]) -> None:
        was, now = set(one), set(other)
        for name in was ^ now:
            found.setdefault((kind, name, name in now), []).extend(where)

    for platform, oracle in asked:
        sides = [rules.load(platform).oracles.get(oracle) for rules in (before, after)]
        for kind, names_of in _OF_ORACLE.items():
            one, other = (names_of(side) if side else () for side in sides)
            compare(kind, one, other, [(platform, oracle)])
    if models:
        for kind, names_in in _OF_TABLES.items():
            compare(kind, names_in(before.tables()), names_in(after.tables()), [])
    order = [*_OF_ORACLE, *_OF_TABLES]
    keys = sorted(found, key=lambda key: (order.index(key[0]), not key[2], key[1]))
    return [NameChange(*key, tuple(dict.fromkeys(found[key]))) for key in keys]


def _asked(oracle: Oracle) -> set[str]:
    """The facts that an oracle asks for."""
    return {clause.fact for one in oracle.conditions() for clause in one.clauses()}


def _kernels(oracle: Oracle) -> set[str]:
    backends = oracle.backends.values()
    return {choice.kernel.class_name for one in backends for choice in one.choices}


def _architectures(tables: Tables) -> set[str]:
    registry = tables.registry
    lists = ("without_moe_layers", "draft_models")
    return {*tables.architectures["architectures"], *(n for key in lists for n in registry[key])}


_OF_ORACLE: dict[str, Callable[[Oracle], Iterable[str]]] = {
    "request": lambda oracle: oracle.requests,
    "switch": lambda oracle: _asked(oracle) & SWITCHES.keys(),
    "backend": lambda oracle: oracle.backends,
    "kernel": _kernels,
    "fact": lambda oracle: _asked(oracle) - SWITCHES.keys(),
}
_OF_TABLES: dict[str, Callable[[Tables], Iterable[str]]] = {
    "architecture": _architectures,
    "quantization method": lambda tables: tables.quantization["methods"],
}
