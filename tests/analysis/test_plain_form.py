"""Diagrams that are stored are those that were made."""

from __future__ import annotations

import json

from moe_rules.analysis.diagram import Diagrams, Node
from moe_rules.analysis.plain_form import from_plain, to_plain
from moe_rules.conformance.diagrams import oracle_diagrams
from moe_rules.language.ruleset import load_platform


def test_variables_are_equal_and_leaves_as_they_were() -> None:
    variables, first, takes = oracle_diagrams(load_platform("xpu"), "fp8")
    data = json.loads(json.dumps(to_plain((variables, first, takes))))
    again, first_again, takes_again = from_plain(data)
    assert again == variables
    assert takes_again.keys() == takes.keys()
    read = [*first_again, *takes_again.values()]
    for made, found in zip([*first, *takes.values()], read, strict=True):
        assert shape(found) == shape(made)


def test_what_was_one_node_is_one_node() -> None:
    """A diagram of 60 variables with two ways from each to the next has 2 ** 60 ways."""
    diagrams = Diagrams([3] * 60)
    node, other = diagrams.true, diagrams.false
    for level in reversed(range(60)):
        node, other = diagrams.node(level, (node, other, node)), node
    found = from_plain(json.loads(json.dumps(to_plain(node))))
    assert shape(found) == shape(node)


def shape(diagram: Node) -> list[tuple[object, ...]]:
    """Every node by the position of its children, and its value with its type."""
    known: dict[int, int] = {}
    rows: list[tuple[object, ...]] = []

    def walk(node: Node) -> int:
        if id(node) not in known:
            children = tuple(map(walk, node.children))
            known[id(node)] = len(rows)
            rows.append((node.level, children, type(node.value), node.value))
        return known[id(node)]

    walk(diagram)
    return rows
