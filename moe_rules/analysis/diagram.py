"""Decision diagrams: functions of variables with finitely many classes, each kept once.

A node asks one variable and has a child for each of its classes; a leaf holds a value. Variables
are asked in one order, no node has all children alike, and no two nodes are alike, so two
diagrams of one manager are the same function if and only if they are the same object.

A diagram whose leaves are ``True``, ``False`` and ``None`` is a condition: ``None`` where facts
that nobody supplied leave it open.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from itertools import repeat

LEAF = 1 << 30
"""The level of leaves, below every variable."""

Value = Hashable
Point = dict[int, int]
"""A class for each variable that a path of a diagram asks, by level."""


class Node:
    """A node or a leaf. Made by :class:`Diagrams` alone, and compared by identity.

    ``level`` is the number of the variable that is asked, ``children`` has one node for each of
    its classes. A leaf has :data:`LEAF` as level, no children, and a ``value``.
    """

    __slots__ = ("children", "level", "value")
    __match_args__ = ("level", "children", "value")

    def __init__(self, level: int, children: tuple[Node, ...], value: Value = None) -> None:
        self.level = level
        self.children = children
        self.value = value


class Diagrams:
    """All diagrams over variables with ``sizes[level]`` classes each."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self._leaves: dict[tuple[type, Value], Node] = {}
        self._nodes: dict[tuple[int, tuple[Node, ...]], Node] = {}
        self._chosen: dict[tuple[Node, Node, Node], Node] = {}
        self._both: dict[tuple[Node, Node], Node] = {}
        self._opposite: dict[Node, Node] = {}
        self.true = self.leaf(True)
        self.false = self.leaf(False)
        self.open = self.leaf(None)

    # Making ------------------------------------------------------------------------------------

    def leaf(self, value: Value) -> Node:
        """The diagram that is ``value`` everywhere."""
        key = (type(value), value)  # 1 and True are different values
        found = self._leaves.get(key)
        if found is None:
            found = self._leaves[key] = Node(LEAF, (), value)
        return found

    def node(self, level: int, children: tuple[Node, ...]) -> Node:
        """The diagram that asks a variable, and goes on as the child of its class."""
        first = children[0]
        if all(child is first for child in children):
            return first
        key = (level, children)
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = Node(level, children)
        return found

    def variable(self, level: int, values: Sequence[Value]) -> Node:
        """The diagram that is ``values[class]`` of one variable."""
        return self.node(level, tuple(map(self.leaf, values)))

    # Combining ---------------------------------------------------------------------------------

    def map(self, function: Callable[[Value], Value], diagram: Node) -> Node:
        """The function of the diagram's value."""
        done: dict[Node, Node] = {}

        def walk(node: Node) -> Node:
            found = done.get(node)
            if found is None:
                if node.level == LEAF:
                    found = self.leaf(function(node.value))
                else:
                    found = self.node(node.level, tuple(map(walk, node.children)))
                done[node] = found
            return found

        return walk(diagram)

    def apply(self, function: Callable[..., Value], *diagrams: Node) -> Node:
        """The function of the values of several diagrams."""
        done: dict[tuple[Node, ...], Node] = {}

        def walk(nodes: tuple[Node, ...]) -> Node:
            found = done.get(nodes)
            if found is None:
                level = min(node.level for node in nodes)
                if level == LEAF:
                    found = self.leaf(function(*(node.value for node in nodes)))
                else:
                    split = [self._split(node, level) for node in nodes]
                    found = self.node(level, tuple(map(walk, zip(*split, strict=False))))
                done[nodes] = found
            return found

        return walk(diagrams)

    def _split(self, node: Node, level: int) -> tuple[Node, ...] | repeat[Node]:
        if node.level == level:
            return node.children
        return repeat(node, self.sizes[level])

    def choose(self, condition: Node, then: Node, otherwise: Node) -> Node:
        """``then`` where the condition is True, ``otherwise`` where it is False or open."""
        if then is otherwise:
            return then
        if condition.level == LEAF:
            return then if condition.value is True else otherwise
        key = (condition, then, otherwise)
        found = self._chosen.get(key)
        if found is None:
            level = min(condition.level, then.level, otherwise.level)
            parts = zip(
                self._split(condition, level),
                self._split(then, level),
                self._split(otherwise, level),
                strict=False,
            )
            found = self.node(level, tuple([self.choose(*part) for part in parts]))
            self._chosen[key] = found
        return found

    def both(self, one: Node, other: Node) -> Node:
        """Whether both conditions hold; open where one is and the other does not fail."""
        if one is other or other is self.true or one is self.false:
            return one
        if one is self.true or other is self.false:
            return other
        level = min(one.level, other.level)
        if level == LEAF:
            return self.open
        key = (one, other)
        found = self._both.get(key)
        if found is None:
            parts = zip(self._split(one, level), self._split(other, level), strict=False)
            found = self.node(level, tuple([self.both(*part) for part in parts]))
            self._both[key] = self._both[other, one] = found
        return found

    def opposite(self, condition: Node) -> Node:
        """Whether the condition fails; open where it is."""
        found = self._opposite.get(condition)
        if found is None:
            if condition.level == LEAF:
                value = condition.value
                found = self.leaf(None if value is None else not value)
            else:
                children = tuple([self.opposite(child) for child in condition.children])
                found = self.node(condition.level, children)
            self._opposite[condition] = found
            self._opposite[found] = condition
        return found

    def either(self, one: Node, other: Node) -> Node:
        """Whether one of the conditions holds; open where neither does and one is open."""
        return self.opposite(self.both(self.opposite(one), self.opposite(other)))

    def every(self, conditions: Sequence[Node]) -> Node:
        """Whether all of the conditions hold."""
        result = self.true
        for condition in sorted(conditions, key=lambda node: -node.level):
            result = self.both(result, condition)
        return result

    def holds(self, condition: Node) -> Node:
        """The condition, False where it is open."""
        return self.choose(condition, self.true, self.false)

    def does_not_fail(self, condition: Node) -> Node:
        """The condition, True where it is open."""
        return self.opposite(self.holds(self.opposite(condition)))

    def without(self, one: Node, other: Node) -> Node:
        """Where ``one`` holds and ``other`` does not."""
        return self.choose(other, self.false, one)

    def differ(self, one: Node, other: Node) -> Node:
        """Where just one of two conditions holds."""
        return self.either(self.without(one, other), self.without(other, one))

    def restrict(self, diagram: Node, classes: Mapping[int, int]) -> Node:
        """The diagram with some variables, by level, in the class given."""
        done: dict[Node, Node] = {}

        def walk(node: Node) -> Node:
            if node.level == LEAF:
                return node
            found = done.get(node)
            if found is None:
                if node.level in classes:
                    found = walk(node.children[classes[node.level]])
                else:
                    found = self.node(node.level, tuple(map(walk, node.children)))
                done[node] = found
            return found

        return walk(diagram)

    def moved(self, diagram: Node, classes: Mapping[int, Sequence[int]]) -> Node:
        """The diagram as it is where each class of some variables, by level, is another one."""
        done: dict[Node, Node] = {}

        def walk(node: Node) -> Node:
            if node.level == LEAF:
                return node
            found = done.get(node)
            if found is None:
                children = tuple(map(walk, node.children))
                others = classes.get(node.level)
                if others is not None:
                    children = tuple(children[number] for number in others)
                found = done[node] = self.node(node.level, children)
            return found

        return walk(diagram)

    # Asking ------------------------------------------------------------------------------------

    def at(self, diagram: Node, point: Mapping[int, int]) -> Value:
        """The value at a point, which names a class for every variable asked on the way."""
        while diagram.level != LEAF:
            diagram = diagram.children[point[diagram.level]]
        return diagram.value

    def is_within(
        self, region: Node, other: Node, classes: Mapping[int, Container[int]] | None = None
    ) -> bool:
        """Whether ``other`` holds wherever ``region`` does, where ``classes`` are those allowed."""
        allowed = classes or {}
        done: set[tuple[Node, Node]] = set()

        def walk(one: Node, two: Node) -> bool:
            if one is self.false or two is self.true or (one, two) in done:
                return True
            level = min(one.level, two.level)
            if level == LEAF:
                return one.value is not True or two.value is True
            some = allowed.get(level)
            parts = enumerate(zip(self._split(one, level), self._split(two, level), strict=False))
            for number, (left, right) in parts:
                if (some is None or number in some) and not walk(left, right):
                    return False
            done.add((one, two))
            return True

        return walk(region, other)

    def point(self, region: Node, prefer: Callable[[int], Sequence[int]] | None = None) -> Point:
        """A point of a region that is somewhere: classes by level, for variables on the way.

        ``prefer`` gives a variable's classes in the order in which they are tried. Raises
        ValueError for a region that is nowhere.
        """
        possible: dict[Node, bool] = {}

        def some(node: Node) -> bool:
            if node.level == LEAF:
                return node.value is True
            found = possible.get(node)
            if found is None:
                found = possible[node] = any(map(some, node.children))
            return found

        if not some(region):
            raise ValueError("the region is empty")
        point: Point = {}
        while region.level != LEAF:
            level = region.level
            order = range(self.sizes[level]) if prefer is None else prefer(level)
            number = next(i for i in order if some(region.children[i]))
            point[level] = number
            region = region.children[number]
        return point

    def share(self, region: Node) -> float:
        """The part of all points at which the region holds, from 0 to 1."""
        done: dict[Node, float] = {}

        def walk(node: Node) -> float:
            if node.level == LEAF:
                return float(node.value is True)
            found = done.get(node)
            if found is None:
                found = done[node] = sum(map(walk, node.children)) / len(node.children)
            return found

        return walk(region)

    def nodes(self, *diagrams: Node) -> Iterator[Node]:
        """Every node and leaf of the diagrams, each once."""
        seen = set(diagrams)
        stack = list(seen)
        while stack:
            node = stack.pop()
            yield node
            for child in node.children:
                if child not in seen:
                    seen.add(child)
                    stack.append(child)

    def values(self, diagram: Node) -> list[Value]:
        """Every value that the diagram has somewhere."""
        return [node.value for node in self.nodes(diagram) if node.level == LEAF]

    def support(self, diagram: Node) -> set[int]:
        """The levels of the variables that the diagram depends on."""
        return {node.level for node in self.nodes(diagram) if node.level != LEAF}

    def size(self, *diagrams: Node) -> int:
        """How many nodes and leaves the diagrams have together."""
        return sum(1 for _ in self.nodes(*diagrams))
