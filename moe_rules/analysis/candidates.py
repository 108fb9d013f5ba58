"""Values of a fact that, together, answer its tests in every way in which any value does.

Numbers: between any two bounds, every combination of divisors. Versions: around every number and
family. Text: every word and beginning. Keys: every combination of the parts that are looked at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

from moe_rules.language.fact_tests import (
    AnyTest,
    Compare,
    FactTest,
    Family,
    KeyPattern,
    MultipleOf,
    NotTest,
    OneOf,
    Prefix,
    ScalePattern,
)
from moe_rules.vocabulary.fact_values import Fact, FactValue
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, TENSOR, QuantKey, Scale

_HIGH = 9
"""The highest minor version that there can be."""


def candidates(
    fact: Fact, tests: Iterable[FactTest], known: Iterable[FactValue], divisors: Iterable[int] = ()
) -> list[FactValue]:
    """The values, ``known`` ones first. ``divisors`` are further ones of numbers."""
    atoms = [atom for test in tests for atom in _atoms(test)]
    words = [value for atom in atoms if isinstance(atom, OneOf) for value in atom.values]
    values: list[FactValue] = [*known, *_sorted(words)]
    match fact.type:
        case "bool":
            values += [False, True]
        case "switch":
            values += [None, True, False]
        case "enum":
            values += fact.values
        case "string":
            values += [*fact.values, *_texts(atoms)]
        case "version":
            values += _versions(atoms, values)
        case "int":
            # A fact that another one is compared with may have values that this one cannot.
            values = [v for v in values if not _is_too_small(v, fact.least)]
            values += _integers(atoms, values, divisors, fact.least)
        case "float":
            values += _floats(atoms, values)
        case "quant_key":
            values += _keys(atoms)
    if fact.nullable:
        values.append(None)
    unique = {(type(value), value): value for value in values}
    return [v for v in unique.values() if v is not None or fact.nullable or fact.type == "switch"]


def _is_too_small(value: FactValue, least: int | None) -> bool:
    return least is not None and isinstance(value, int) and value < least


def _atoms(test: FactTest) -> Iterator[FactTest]:
    if isinstance(test, AnyTest):
        for part in test.tests:
            yield from _atoms(part)
    elif isinstance(test, NotTest):
        yield from _atoms(test.test)
    else:
        yield test


def _sorted(values: Iterable[FactValue]) -> list[FactValue]:
    return sorted(set(values), key=lambda value: (str(type(value)), str(value)))


def _bounds(atoms: Iterable[FactTest]) -> list[int | float | tuple[int, int]]:
    return [bound for atom in atoms if isinstance(atom, Compare) for _, bound in atom.bounds]


def _texts(atoms: Iterable[FactTest]) -> Iterator[str]:
    for atom in atoms:
        if isinstance(atom, Prefix):
            yield atom.prefix
            yield atom.prefix + "~"
    yield "other"


def _versions(atoms: list[FactTest], words: Iterable[FactValue]) -> Iterator[tuple[int, int]]:
    critical = {v for v in (*words, *_bounds(atoms)) if isinstance(v, tuple)}
    critical |= {(atom.major, 0) for atom in atoms if isinstance(atom, Family)}
    for major, minor in sorted(critical):
        yield from ((major, minor), (major, 0), (major, _HIGH))
        if minor < _HIGH:
            yield (major, minor + 1)
        if minor:
            yield (major, minor - 1)
        yield (major + 1, 0)
        if major:
            yield (major - 1, _HIGH)
    yield (1, 0)


def _floats(atoms: list[FactTest], words: Iterable[FactValue]) -> Iterator[float]:
    critical = sorted(
        {float(v) for v in (*words, *_bounds(atoms)) if isinstance(v, int | float)} | {1.0}
    )
    yield critical[0] - 1
    for value, following in itertools.pairwise([*critical, critical[-1] + 2]):
        yield value
        yield (value + following) / 2


def _integers(
    atoms: list[FactTest],
    words: Iterable[FactValue],
    divisors: Iterable[int] = (),
    least: int | None = None,
) -> list[int]:
    """For each interval between bounds and each set of divisors, a number in both."""
    by = {d for d in divisors if d > 0}
    by |= {abs(a.divisor) for a in atoms if isinstance(a, MultipleOf) and type(a.divisor) is int}
    by.discard(0)
    multiples = {1}
    for divisor in by:
        multiples |= {math.lcm(multiple, divisor) for multiple in multiples}
    starts = {0, 1}
    for bound in _bounds(atoms):
        if isinstance(bound, int | float):
            starts |= {math.floor(bound), math.floor(bound) + 1, math.ceil(bound)}
    starts |= {n for word in words if type(word) is int for n in (word, word + 1)}
    intervals: list[tuple[int | None, int | None]] = []
    if least is None:
        intervals.append((None, min(starts) - 1))
    else:
        starts = {least, *(start for start in starts if start > least)}
    edges = sorted(starts)
    intervals += [(low, high - 1) for low, high in itertools.pairwise(edges)]
    intervals.append((edges[-1], None))
    found = {
        number
        for low, high in intervals
        for multiple in multiples
        if (number := _in_interval(low, high, multiple, by)) is not None
    }
    return sorted(found, key=lambda number: (number < 0, abs(number)))


def _in_interval(low: int | None, high: int | None, multiple: int, by: set[int]) -> int | None:
    """A multiple from ``low`` to ``high`` that no other divisor divides."""
    others = [divisor for divisor in by if multiple % divisor]
    period = math.lcm(*(divisor // math.gcd(divisor, multiple) for divisor in others))
    if low is None:
        assert high is not None
        first, step = high // multiple, -1
    else:
        first, step = -(-low // multiple), 1
    for i in range(period + 1):
        number = multiple * (first + step * i)
        if high is not None and number > high:
            return None
        if all(number % divisor for divisor in others):
            return number
    return None


def _keys(atoms: Iterable[FactTest]) -> Iterator[QuantKey]:
    """Named keys, and every combination of the parts that patterns and words name."""
    yield from NAMED_KEYS.values()
    patterns = [atom for atom in atoms if isinstance(atom, KeyPattern)]
    if not patterns:
        yield QuantKey("other", Scale("other", True, (1, 1)))
        return
    scales = [p.scale for p in patterns if isinstance(p.scale, ScalePattern)]
    second = [p.scale2 for p in patterns if isinstance(p.scale2, ScalePattern)]
    dtypes: dict[tuple[bool, ...], str] = {}
    for dtype in sorted({dtype for pattern in patterns for dtype in pattern.dtypes or ()}):
        dtypes.setdefault(tuple(dtype in (p.dtypes or ()) for p in patterns), dtype)
    seconds: list[Scale | None] = [None, *_scales(second)]
    yield from (
        QuantKey(dtype, scale, scale2, symmetric)
        for dtype in (*dtypes.values(), "other")
        for scale in _scales(scales)
        for scale2 in seconds
        for symmetric in (True, False)
    )


def _scales(patterns: list[ScalePattern]) -> list[Scale]:
    dtypes = {pattern.dtype for pattern in patterns if pattern.dtype is not None}
    rows = _extents([pattern.rows for pattern in patterns if pattern.rows is not None])
    columns = _extents([pattern.columns for pattern in patterns if pattern.columns is not None])
    return [
        Scale(dtype, static, (row, column))
        for dtype in (*sorted(dtypes), "other")
        for static in (True, False)
        for row in rows
        for column in columns
    ]


def _extents(tests: list[FactTest]) -> list[int]:
    """Rows or columns of a scale, one for each combination of the tests' answers."""
    atoms = [atom for test in tests for atom in _atoms(test)]
    words = [value for atom in atoms if isinstance(atom, OneOf) for value in atom.values]
    found: dict[tuple[bool, ...], int] = {}
    for number in _integers(atoms, words):
        if number > 0 or number == TENSOR[0]:  # what a scale may cover: some, or the whole extent
            found.setdefault(tuple(test.holds(number, {}) for test in tests), number)
    return list(found.values())
