"""The rules of a platform as plain data and back, so that they can be stored.

Plain data is a table of nodes. A node is the position of its class among those that there may be
and its fields, a field a value of JSON or, as a list of one number, the node that it is. What is
equal is one node.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moe_rules.files.problems import Location, Problem
from moe_rules.language import conditions, fact_tests, rules, schemes
from moe_rules.vocabulary.fact_values import Fact
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.quant_keys import QuantKey, Scale


def _tuple(*items: Any) -> tuple[Any, ...]:
    return items


def _frozenset(*items: Any) -> frozenset[Any]:
    return frozenset(items)


def _mapping(keys: Sequence[Any], values: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(keys, values, strict=True))


def _constant(value: bool | None) -> conditions.Constant:
    """The rules' code asks for identity with these."""
    return {True: conditions.ALWAYS, False: conditions.NEVER, None: conditions.UNKNOWN}[value]


CLASSES: dict[type, Callable[..., Any]] = {
    tuple: _tuple,
    frozenset: _frozenset,
    dict: _mapping,
    conditions.Constant: _constant,
    **{
        made: made
        for made in (
            Location,
            Problem,
            Fact,
            QuantKey,
            Scale,
            conditions.Clause,
            conditions.Implied,
            conditions.All,
            conditions.Any,
            conditions.Not,
            schemes.Scheme,
            schemes.Schemes,
            fact_tests.OneOf,
            fact_tests.SwitchIs,
            fact_tests.IsSet,
            fact_tests.Compare,
            fact_tests.Family,
            fact_tests.Prefix,
            fact_tests.MultipleOf,
            fact_tests.SameAs,
            fact_tests.ScalePattern,
            fact_tests.KeyPattern,
            fact_tests.Anything,
            fact_tests.AnyTest,
            fact_tests.NotTest,
            rules.ValueOf,
            rules.Derived,
            rules.Kernel,
            rules.Choice,
            rules.Backend,
            rules.Reason,
            rules.Assumption,
            rules.Step,
            rules.RequestCase,
            rules.Adjustment,
            rules.Variants,
            rules.Otherwise,
            rules.Oracle,
            rules.Requested,
        )
    },
}
"""What a node of rules may be, and what makes it of its fields."""


def to_plain(platform: rules.PlatformRules, files: Sequence[str]) -> dict[str, Any]:
    """Plain data of rules that were read from ``files``, which it does not name."""
    writer = Writer(files=files)
    derived_facts = {n: fact for n, fact in platform.facts.items() if n not in FACTS}
    return {
        "platform": platform.platform,
        "files": [files.index(file) for file in platform.files],
        "fingerprint": platform.fingerprint,
        "facts": writer.value(derived_facts),
        "derived": writer.value(platform.derived),
        "oracles": writer.value(platform.oracles),
        "kernels": writer.value(platform.kernels),
        "warnings": writer.value(platform.warnings),
        "requested": writer.value(platform.requested),
        "withdrawn": writer.value(platform.withdrawn),
        "nodes": writer.nodes,
    }


def from_plain(data: Mapping[str, Any], files: Sequence[str]) -> rules.PlatformRules:
    """Inverse of :func:`to_plain`; the rules say that they stand in ``files``."""
    reader = Reader(data["nodes"], files=files)
    withdrawn = reader.value(data["withdrawn"])
    supplied = {name: fact for name, fact in FACTS.items() if name not in withdrawn}
    return rules.PlatformRules(
        platform=data["platform"],
        facts={**supplied, **reader.value(data["facts"])},
        derived=reader.value(data["derived"]),
        oracles=reader.value(data["oracles"]),
        kernels=reader.value(data["kernels"]),
        files=tuple(files[i] for i in data["files"]),
        fingerprint=data["fingerprint"],
        warnings=reader.value(data["warnings"]),
        requested=reader.value(data["requested"]),
        withdrawn=withdrawn,
    )


class Writer:
    """Makes nodes of values whose classes are among ``classes``.

    Fields are what a class matches by position. Places are in one of ``files``.
    """

    def __init__(
        self, classes: Mapping[type, Callable[..., Any]] = CLASSES, files: Sequence[str] = ()
    ) -> None:
        self.files = files
        self.codes = {made: code for code, made in enumerate(classes)}
        self.nodes: list[list[Any]] = []
        self._known: dict[str, int] = {}
        self._written: dict[int, tuple[Any, list[int]]] = {}

    def value(self, value: Any) -> Any:
        """The value itself, or its node."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if id(value) in self._written:
            return self._written[id(value)][1]
        node = [self.codes[dict if isinstance(value, Mapping) else type(value)]]
        node += map(self.value, self.fields(value))
        text = repr(node)  # tells apart what Python takes for equal: true, 1 and 1.0
        if text not in self._known:
            self._known[text] = len(self.nodes)
            self.nodes.append(node)
        number = [self._known[text]]
        self._written[id(value)] = value, number  # which keeps it, and so its id
        return number

    def fields(self, value: Any) -> Sequence[Any]:
        """What makes the value again."""
        match value:
            case tuple():
                return value
            case frozenset():
                return sorted(value, key=repr)
            case Mapping():
                return tuple(value), tuple(value.values())
            case Location():
                return self.files.index(value.file), value.line, value.column
            case enum.Enum():
                return (value.value,)
        return [getattr(value, name) for name in value.__match_args__]


class Reader:
    """Makes values of nodes that a :class:`Writer` with the same classes made."""

    def __init__(
        self,
        nodes: Sequence[Any],
        classes: Mapping[type, Callable[..., Any]] = CLASSES,
        files: Sequence[str] = (),
    ) -> None:
        self.nodes = nodes
        self.made: list[Any] = [None] * len(nodes)
        makers = {
            **classes,
            Location: lambda file, line, column: Location(files[file], line, column),
        }
        self.makers = list(makers.values())

    def value(self, value: Any) -> Any:
        """Inverse of :meth:`Writer.value`."""
        return self.node(value[0]) if type(value) is list else value

    def node(self, number: int) -> Any:
        """The value of a node."""
        made = self.made[number]
        if made is None:
            code, *fields = self.nodes[number]
            node = self.node
            made = self.makers[code](*[node(f[0]) if type(f) is list else f for f in fields])
            self.made[number] = made
        return made
