"""Diagrams against tables of all points."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.analysis.diagram import LEAF, Diagrams, Node

SIZES = (2, 3, 2)
POINTS = [dict(enumerate(classes)) for classes in itertools.product(*map(range, SIZES))]

Table = list[Any]
"""A value for each point."""

truths = st.lists(st.sampled_from([True, False, None]), min_size=len(POINTS), max_size=len(POINTS))


def build(diagrams: Diagrams, table: Table) -> Node:
    """The diagram of a table, made from the last variable to the first."""
    nodes = [diagrams.leaf(value) for value in table]
    for level in reversed(range(len(SIZES))):
        size = SIZES[level]
        nodes = [
            diagrams.node(level, tuple(nodes[i : i + size])) for i in range(0, len(nodes), size)
        ]
    (root,) = nodes
    return root


def table_of(diagrams: Diagrams, node: Node) -> Table:
    return [diagrams.at(node, point) for point in POINTS]


def both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def either(one: bool | None, other: bool | None) -> bool | None:
    if one is True or other is True:
        return True
    return None if one is None or other is None else False


@given(truths, truths)
def test_equal_functions_are_one_object(one: Table, other: Table) -> None:
    diagrams = Diagrams(SIZES)
    assert (build(diagrams, one) is build(diagrams, other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("both", both),
        ("either", either),
        ("without", lambda one, other: False if other is True else one),
    ],
)
@given(one=truths, other=truths)
def test_joining(
    name: str, function: Callable[[Any, Any], bool | None], one: Table, other: Table
) -> None:
    diagrams = Diagrams(SIZES)
    joined = getattr(diagrams, name)(build(diagrams, one), build(diagrams, other))
    assert table_of(diagrams, joined) == [function(a, b) for a, b in zip(one, other, strict=True)]


@given(truths, truths, truths)
def test_choosing_and_applying(one: Table, two: Table, three: Table) -> None:
    diagrams = Diagrams(SIZES)
    nodes = [build(diagrams, table) for table in (one, two, three)]
    rows = list(zip(one, two, three, strict=True))
    chosen = diagrams.choose(*nodes)
    assert table_of(diagrams, chosen) == [b if a is True else c for a, b, c in rows]
    assert diagrams.apply(lambda a, b, c: b if a is True else c, *nodes) is chosen
    tuples = diagrams.apply(lambda *values: values, *nodes)
    assert table_of(diagrams, tuples) == rows
    assert diagrams.map(lambda row: row[0], tuples) is nodes[0]


@given(truths)
def test_of_one_condition(table: Table) -> None:
    diagrams = Diagrams(SIZES)
    node = build(diagrams, table)
    assert table_of(diagrams, diagrams.opposite(node)) == [
        None if value is None else not value for value in table
    ]
    holds = diagrams.holds(node)
    assert table_of(diagrams, holds) == [value is True for value in table]
    assert table_of(diagrams, diagrams.does_not_fail(node)) == [v is not False for v in table]
    assert diagrams.share(holds) == pytest.approx(sum(v is True for v in table) / len(table))
    assert set(diagrams.values(node)) == set(table)
    if True in table:
        point = diagrams.point(holds)
        assert all(table[POINTS.index(p)] is True for p in POINTS if p.items() >= point.items())
    else:
        with pytest.raises(ValueError, match="empty"):
            diagrams.point(holds)


@given(truths, st.integers(0, len(SIZES) - 1), st.data())
def test_restricting(table: Table, level: int, data: st.DataObject) -> None:
    diagrams = Diagrams(SIZES)
    number = data.draw(st.integers(0, SIZES[level] - 1))
    restricted = diagrams.restrict(build(diagrams, table), {level: number})
    assert level not in diagrams.support(restricted)
    assert table_of(diagrams, restricted) == [
        table[POINTS.index({**point, level: number})] for point in POINTS
    ]


@given(truths, truths, st.tuples(*(st.sets(st.integers(0, n - 1), min_size=1) for n in SIZES)))
def test_is_within(one: Table, other: Table, allowed: tuple[set[int], ...]) -> None:
    diagrams = Diagrams(SIZES)
    classes = dict(enumerate(allowed))
    inside = [all(point[level] in classes[level] for level in point) for point in POINTS]
    rows = zip(inside, one, other, strict=True)
    expected = all(b is True for is_in, a, b in rows if is_in and a is True)
    assert diagrams.is_within(build(diagrams, one), build(diagrams, other), classes) == expected


def test_numbers_and_truths_are_different_values() -> None:
    diagrams = Diagrams(SIZES)
    assert diagrams.leaf(1) is not diagrams.leaf(True)
    assert diagrams.leaf(0) is not diagrams.false
    assert diagrams.leaf(1).level == LEAF


@given(truths)
def test_nodes_are_reduced(table: Table) -> None:
    diagrams = Diagrams(SIZES)
    node = build(diagrams, table)
    inner = [one for one in diagrams.nodes(node) if one.level != LEAF]
    assert all(len(set(one.children)) > 1 for one in inner)
    assert len({(one.level, one.children) for one in inner}) == len(inner)
    leaves = len(diagrams.values(node))
    assert diagrams.size(node) == len(inner) + leaves
