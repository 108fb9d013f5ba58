"""The rules' tests of facts as Python expressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from moe_rules.analysis.questions import Fixed, Probe
from moe_rules.language.fact_tests import (
    AnyTest,
    Compare,
    FactTest,
    IsSet,
    MultipleOf,
    NotTest,
    OneOf,
)
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS


class Test(NamedTuple):
    """A condition, its opposite, and the variables in them."""

    text: str
    opposite: str
    needs: tuple[str, ...]


def is_one_of(name: str, values: list[FactValue]) -> Test:
    """Whether a variable has one of some values."""
    if len(values) == 1:
        return Test(f"{name} == {values[0]!r}", f"{name} != {values[0]!r}", (name,))
    several = "{" + ", ".join(sorted(map(repr, values))) + "}"
    return Test(f"{name} in {several}", f"{name} not in {several}", (name,))


def written(probe: Probe, names: dict[str, Any]) -> Test | None:
    """A probe as an expression of its facts; None where it is none.

    What the expression refers to is added to ``names``.
    """
    fact, *others = probe.operands
    if isinstance(fact, Fixed):
        return None
    return _written(probe.test, fact, dict(zip(probe.test.facts(), others, strict=True)), names)


def _written(
    test: FactTest, fact: str, others: Mapping[str, str | Fixed], names: dict[str, Any]
) -> Test | None:
    """A test of a fact; ``others`` are what it meets for the other facts that it looks at."""
    number = FACTS[fact].type == "int"
    match test:
        case OneOf(values) if values == {None}:
            return Test(f"{fact} is None", f"{fact} is not None", (fact,))
        case IsSet(wanted):
            none, given = f"{fact} is None", f"{fact} is not None"
            return Test(given, none, (fact,)) if wanted else Test(none, given, (fact,))
        case OneOf(values) if FACTS[fact].type == "bool" and not FACTS[fact].nullable:
            if values == {True}:
                return Test(fact, f"not {fact}", (fact,))
            if values == {False}:
                return Test(f"not {fact}", fact, (fact,))
        case OneOf(values) if number and all(type(value) in (int, type(None)) for value in values):
            return is_one_of(fact, list(values))
        case OneOf(values) if not any(type(value) is float for value in values):
            name = f"one_of_{len(names)}"
            names[name] = values
            return Test(f"{fact} in {name}", f"{fact} not in {name}", (fact,))
        case Compare(bounds) if number or FACTS[fact].type == "float":
            parts = [f"{fact} {sign} {bound!r}" for sign, bound in bounds]
            return _every(fact, parts, (fact,))
        case MultipleOf(divisor) if number:
            other = others[divisor] if isinstance(divisor, str) else Fixed(divisor)
            if isinstance(other, Fixed) and type(other.value) is int and other.value:
                return _every(fact, [f"{fact} % {other.value} == 0"], (fact,))
            if isinstance(other, str) and FACTS[other].type == "int":
                return _every(fact, [other, f"{fact} % {other} == 0"], (fact, other))
        case NotTest(inner):
            negated = _written(inner, fact, others, names)
            return negated and Test(negated.opposite, negated.text, negated.needs)
        case AnyTest(tests):
            found = [_written(one, fact, others, names) for one in tests]
            if all(found):
                several = [one for one in found if one]
                needs = dict.fromkeys(name for one in several for name in one.needs)
                text = "(" + " or ".join(one.text for one in several) + ")"
                return Test(text, f"not {text}", tuple(needs))
    return None


def _every(fact: str, parts: list[str], needs: tuple[str, ...]) -> Test:
    """That all parts hold, of a number that may be none."""
    if FACTS[fact].nullable:
        parts = [f"{fact} is not None", *parts]
    if len(parts) == 1 and parts[0].endswith(" == 0"):
        return Test(parts[0], parts[0].removesuffix("== 0") + "!= 0", needs)
    text = parts[0] if len(parts) == 1 else "(" + " and ".join(parts) + ")"
    return Test(text, f"not {text}", needs)
