"""Tests on one fact: what stands to the right of a fact's name in a rule file.

====================  =====================================================================
``bf16``              equal; ``[bf16, fp16]`` any of these; ``$name`` a named set of values
``"<=992"``           compared; ``">=8.9 <12"`` both
``"10.*"``, ``gfx9*`` a version's family, a text's beginning
``{not: TEST}``       anything else
``{multiple_of: N}``  divisible, by a number or by another fact
``{same_as: FACT}``   equal to another fact
``set``, ``unset``    of a switch: given at all, whatever its value
``{dtype: ...}``      a quantization key by its parts
====================  =====================================================================
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from moe_rules.vocabulary.fact_values import FactError, FactValue, in_words
from moe_rules.vocabulary.quant_keys import QuantKey, Scale
from moe_rules.vocabulary.record import Record

Facts = Mapping[str, FactValue]
Predicate = Callable[[Facts], bool]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
COMPARISON = re.compile(r"(>=|<=|>|<)\s*([^\s<>=,]+)")


class FactTest(Record):
    """One test on one fact's value."""

    def holds(self, value: FactValue, facts: Facts) -> bool:
        """Whether ``value`` passes. Raises KeyError when another fact it needs is unknown."""
        raise NotImplementedError

    def words(self) -> str:
        """The test as a rule file writes it."""
        raise NotImplementedError

    def facts(self) -> tuple[str, ...]:
        """Other facts the test looks at."""
        return ()

    def predicate(self, name: str) -> Predicate:
        """The test on fact ``name`` as a function of all facts."""
        holds = self.holds
        return lambda facts: holds(facts[name], facts)


class OneOf(FactTest):
    """Equal to one of ``values``; ``written`` is how the file says it."""

    values: frozenset[FactValue]
    written: str

    def holds(self, value: FactValue, facts: Facts) -> bool:
        if type(value) is float:
            return any(
                isinstance(wanted, float) and math.isclose(value, wanted) for wanted in self.values
            )
        return value in self.values

    def words(self) -> str:
        return self.written

    def predicate(self, name: str) -> Predicate:
        if any(type(value) is float for value in self.values):
            return FactTest.predicate(self, name)
        values = self.values
        if len(values) == 1:
            (only,) = values
            return lambda facts: facts[name] == only
        return lambda facts: facts[name] in values


class SwitchIs(FactTest):
    """An environment switch has the value, counting its default where it is unset."""

    wanted: bool
    default: bool

    def holds(self, value: FactValue, facts: Facts) -> bool:
        return (self.default if value is None else value) is self.wanted

    def words(self) -> str:
        return in_words(self.wanted)


class IsSet(FactTest):
    """An environment switch is given at all (``wanted`` true) or not."""

    wanted: bool

    def holds(self, value: FactValue, facts: Facts) -> bool:
        return (value is not None) is self.wanted

    def words(self) -> str:
        return "set" if self.wanted else "unset"


class Compare(FactTest):
    """Ordered comparisons, all of which hold. ``none`` passes no comparison."""

    bounds: tuple[tuple[str, int | float | tuple[int, int]], ...]

    def holds(self, value: FactValue, facts: Facts) -> bool:
        if value is None:
            return False
        return all(_OPERATORS[sign](value, bound) for sign, bound in self.bounds)

    def words(self) -> str:
        return " ".join(f"{sign}{in_words(bound)}" for sign, bound in self.bounds)

    def predicate(self, name: str) -> Predicate:
        if len(self.bounds) == 1:
            ((sign, bound),) = self.bounds
            compare = _OPERATORS[sign]

            def single(facts: Facts) -> bool:
                value = facts[name]
                return value is not None and compare(value, bound)

            return single
        return FactTest.predicate(self, name)


def comparison(raw: str, bound: Callable[[str], Any]) -> Compare:
    """Read comparisons (">=8.9 <12.0"), whose values ``bound`` reads. Raises FactError."""
    found = COMPARISON.findall(raw)
    if not found or COMPARISON.sub("", raw).replace(",", " ").strip():
        raise FactError(f'{raw!r} is not a comparison; write ">=8.9" or ">=8.9 <12.0"')
    return Compare(tuple((sign, bound(text)) for sign, text in found))


class Family(FactTest):
    """A version with this major number."""

    major: int

    def holds(self, value: FactValue, facts: Facts) -> bool:
        return isinstance(value, tuple) and value[0] == self.major

    def words(self) -> str:
        return f"{self.major}.*"


class Prefix(FactTest):
    """A text that begins so."""

    prefix: str

    def holds(self, value: FactValue, facts: Facts) -> bool:
        return isinstance(value, str) and value.startswith(self.prefix)

    def words(self) -> str:
        return f"{self.prefix}*"


class MultipleOf(FactTest):
    """Divisible by a number, or by the value of another fact."""

    divisor: int | str

    def holds(self, value: FactValue, facts: Facts) -> bool:
        divisor = facts[self.divisor] if isinstance(self.divisor, str) else self.divisor
        if not isinstance(value, int) or not isinstance(divisor, int) or divisor == 0:
            return False
        return value % divisor == 0

    def words(self) -> str:
        return f"multiple of {self.divisor}"

    def facts(self) -> tuple[str, ...]:
        return (self.divisor,) if isinstance(self.divisor, str) else ()


class SameAs(FactTest):
    """Equal to the value of another fact."""

    other: str

    def holds(self, value: FactValue, facts: Facts) -> bool:
        return value == facts[self.other]

    def words(self) -> str:
        return f"same as {self.other}"

    def facts(self) -> tuple[str, ...]:
        return (self.other,)


class ScalePattern(Record):
    """Parts that a key's scale must have; None leaves a part open."""

    dtype: str | None = None
    static: bool | None = None
    rows: FactTest | None = None
    columns: FactTest | None = None

    def matches(self, scale: Scale | None) -> bool:
        if scale is None:
            return False
        return (
            (self.dtype is None or scale.dtype == self.dtype)
            and (self.static is None or scale.static == self.static)
            and (self.rows is None or self.rows.holds(scale.group_shape[0], {}))
            and (self.columns is None or self.columns.holds(scale.group_shape[1], {}))
        )


class KeyPattern(FactTest):
    """A quantization key with these parts; parts not given may be anything."""

    written: str
    dtypes: frozenset[str] | None = None
    scale: ScalePattern | None = None
    scale2: ScalePattern | bool | None = None
    symmetric: bool | None = None

    def holds(self, value: FactValue, facts: Facts) -> bool:
        if not isinstance(value, QuantKey):
            return False
        if self.dtypes is not None and value.dtype not in self.dtypes:
            return False
        if self.symmetric is not None and value.symmetric != self.symmetric:
            return False
        if self.scale is not None and not self.scale.matches(value.scale):
            return False
        if isinstance(self.scale2, bool):
            return (value.scale2 is not None) is self.scale2
        return self.scale2 is None or self.scale2.matches(value.scale2)

    def words(self) -> str:
        return self.written


class Anything(FactTest):
    """Every value passes, known or not."""

    def holds(self, value: FactValue, facts: Facts) -> bool:
        return True

    def words(self) -> str:
        return "any"


class AnyTest(FactTest):
    """At least one of several tests passes."""

    tests: tuple[FactTest, ...]

    def holds(self, value: FactValue, facts: Facts) -> bool:
        return any(test.holds(value, facts) for test in self.tests)

    def words(self) -> str:
        return "[" + ", ".join(test.words() for test in self.tests) + "]"

    def facts(self) -> tuple[str, ...]:
        return tuple(name for test in self.tests for name in test.facts())


class NotTest(FactTest):
    """The test does not pass."""

    test: FactTest

    def holds(self, value: FactValue, facts: Facts) -> bool:
        return not self.test.holds(value, facts)

    def words(self) -> str:
        return f"not {self.test.words()}"

    def facts(self) -> tuple[str, ...]:
        return self.test.facts()

    def predicate(self, name: str) -> Predicate:
        inner = self.test.predicate(name)
        return lambda facts: not inner(facts)
