"""A decision diagram as Python: nested ifs over the values of facts, written out once.

A node asks for its variable's class. Where values are few (words, versions, keys) a dict that fills
itself has the class of each; where there are many, a small tree of the rules' own tests finds it.
What several nodes lead to is a function of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from moe_rules.analysis.classes import Space, UnclassifiedError, Variable
from moe_rules.analysis.diagram import LEAF, Node, Value
from moe_rules.analysis.questions import MISSING, Probe
from moe_rules.analysis.tests_as_source import Test, is_one_of, written
from moe_rules.engine.selection import Result
from moe_rules.vocabulary.fact_values import FactValue, in_words
from moe_rules.vocabulary.facts import FACTS

MAX_KEPT = 1024
"""Values whose classes a dict keeps."""
_FEW_VALUES = ("enum", "string", "switch", "version", "quant_key")


class Function:
    """A compiled diagram. ``text`` is its source; calling it gives the value of a leaf.

    Raises UnclassifiedError for values that are in no class.
    """

    def __init__(self, text: str, names: dict[str, Any]) -> None:
        self.text = text
        exec(compile(text, "<rules>", "exec"), names)
        self.call: Callable[..., Any] = names["decide"]


def as_function(space: Space, diagram: Node, parameters: str, read: Mapping[str, str]) -> Function:
    """Compile a diagram to a function.

    ``parameters`` are those of the function, ``read`` has the expression of each fact's value.
    No class of the space may be of unknown values.
    """
    writer = _Writer(space, diagram, parameters, read)
    return Function(writer.text(), writer.names)


_Tests = list[tuple[Test, tuple[bool, ...]]]


class _Tree(NamedTuple):
    """A test, and what follows where it passes and where it does not."""

    test: Test
    then: _Tree | Node
    otherwise: _Tree | Node


class _Classes(dict[FactValue, str]):
    """The class of every value of a fact that was met, named by a value of it."""

    def __init__(self, variable: Variable) -> None:
        super().__init__()
        self.names = class_names(variable)
        self._variable = variable

    def __missing__(self, value: FactValue) -> str:
        name = self.names[self._variable.number({self._variable.facts[0]: value})]
        if len(self) < MAX_KEPT:
            self[value] = name
        return name


def class_names(variable: Variable) -> list[str]:
    """A value of each class of a variable of one fact, in words; no two alike."""
    names: list[str] = []
    for members in variable.classes:
        word = in_words(members[0][0])
        names.append(word if word not in names else f"{word} ({len(names)})")
    return names


class _Writer:
    """Writes the functions of one diagram."""

    def __init__(
        self, space: Space, diagram: Node, parameters: str, read: Mapping[str, str]
    ) -> None:
        self.space = space
        self.diagram = diagram
        self.parameters = parameters
        self.read = read
        self.names: dict[str, Any] = {}
        self.tests: dict[int, _Tests] = {}
        self.trees: dict[Node, _Tree] = {}
        self.uses: Counter[Node] = Counter([diagram])
        self.called: dict[Node, str] = {}
        self.leaves: dict[Node, str] = {}

    def text(self) -> str:
        """The source; ``names`` then has what it refers to."""
        inner = [n for n in self.space.diagrams.nodes(self.diagram) if n.level != LEAF]
        for node in sorted(inner, key=lambda node: node.level):
            tree = self.trees[node] = self._tree(node)
            self.uses.update(_ends(tree))
        for number, node in enumerate(self.trees):
            if self.uses[node] > 1:
                fact = "_and_".join(self.space.variables[node.level].facts)
                self.called[node] = f"by_{fact}_{number}"
        bodies = [("decide", self.diagram)]
        bodies += [(name, node) for node, name in self.called.items() if node is not self.diagram]
        texts = []
        for name, node in bodies:
            end = self.trees.get(node, node)
            lines = "\n".join(f"    {line}" for line in self._lines(end, frozenset()))
            texts.append(f"def {name}({self.parameters}):\n{lines}\n")
        return "\n\n".join(texts)

    # A node as a tree of tests -----------------------------------------------------------------

    def _tree(self, node: Node) -> _Tree:
        variable = self.space.variables[node.level]
        if any(value is MISSING for members in variable.classes for value in members[0]):
            raise UnclassifiedError(f"{', '.join(variable.facts)} may be unknown")
        if len(variable.facts) == 1 and FACTS[variable.facts[0]].type in _FEW_VALUES:
            found = self._by_class(variable, node)
        else:
            if node.level not in self.tests:
                self.tests[node.level] = _tests(variable, self.names)
            found = _split(tuple(range(len(node.children))), node, self.tests[node.level])
        assert isinstance(found, _Tree)
        return found

    def _by_class(self, variable: Variable, node: Node) -> _Tree | Node:
        """Ask for the class: where most classes lead comes last."""
        (fact,) = variable.facts
        classes = self.names.setdefault(f"class_of_{fact}", _Classes(variable))
        groups: dict[Node, list[str]] = {}
        for child, name in zip(node.children, classes.names, strict=True):
            groups.setdefault(child, []).append(name)
        *few, (rest, _) = sorted(groups.items(), key=lambda group: len(group[1]))
        found: _Tree | Node = rest
        for child, names in reversed(few):
            found = _Tree(is_one_of(f"{fact}_class", [*names]), child, found)
        return found

    # Lines -------------------------------------------------------------------------------------

    def _lines(self, end: _Tree | Node, known: frozenset[str]) -> list[str]:
        """The lines of what is left to ask, where some facts are in local variables."""
        if isinstance(end, Node):
            if end in self.called:
                return [f"return {self.called[end]}({self.parameters})"]
            if end.level == LEAF:
                return [f"return {self._leaf(end)}"]
            end = self.trees[end]
        lines = []
        for name in end.test.needs:
            if name not in known and self._read(name) != name:
                lines.append(f"{name} = {self._read(name)}")
        known = known.union(end.test.needs)
        then, otherwise = self._lines(end.then, known), self._lines(end.otherwise, known)
        condition = end.test.text
        if len(then) > len(otherwise):
            then, otherwise, condition = otherwise, then, end.test.opposite
        return [*lines, f"if {condition}:", *(f"    {line}" for line in then), *otherwise]

    def _read(self, name: str) -> str:
        if name in self.read:
            return self.read[name]
        fact = name.removesuffix("_class")
        return f"class_of_{fact}[{self.read[fact]}]"

    def _leaf(self, leaf: Node) -> str:
        name = self.leaves.get(leaf)
        if name is None:
            plain = _in_a_word(leaf.value)
            name = self.leaves[leaf] = (
                plain if plain not in self.names else f"{plain}_{len(self.names)}"
            )
            self.names[name] = leaf.value
        return name


def _in_a_word(value: Value) -> str:
    """A name for a leaf's value."""
    if not isinstance(value, Result):
        return "value"
    said = (value.how, value.backend, value.kernel, value.error, value.why)
    return re.sub(r"\W", "_", "_".join(word for word in said if word))


def _ends(tree: _Tree | Node) -> Iterator[Node]:
    """The nodes that a tree leads to, as often as it does."""
    if isinstance(tree, Node):
        yield tree
    else:
        yield from _ends(tree.then)
        yield from _ends(tree.otherwise)


def _tests(variable: Variable, names: dict[str, Any]) -> _Tests:
    """Every probe of a variable, and what it says of each class."""
    probes = [*(probe for own in variable.alone for probe in own), *variable.together]
    found: dict[tuple[bool, ...], Test] = {}
    for probe in probes:
        said = tuple(
            probe.answer(dict(zip(variable.facts, members[0], strict=True))) is True
            for members in variable.classes
        )
        test = written(probe, names)
        if test is None:
            test = _called(probe, names)
        known = found.get(said)
        if known is None or len(test.text) < len(known.text):
            found[said] = test
    return [(test, said) for said, test in found.items()]


def _called(probe: Probe, names: dict[str, Any]) -> Test:
    """A test that has no expression of its own."""
    facts = tuple(dict.fromkeys(one for one in probe.operands if isinstance(one, str)))
    name = f"passes_{len(names)}"

    def passes(*values: FactValue) -> bool:
        return probe.answer(dict(zip(facts, values, strict=True))) is True

    names[name] = passes
    text = f"{name}({', '.join(facts)})"
    return Test(text, f"not {text}", facts)


def _split(classes: tuple[int, ...], node: Node, tests: _Tests) -> _Tree | Node:
    """Tests that lead every class to its child: at each step, one that tells most of them apart."""
    children = {node.children[number] for number in classes}
    if len(children) == 1:
        return children.pop()

    def parts(said: tuple[bool, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        passing = tuple(number for number in classes if said[number])
        return passing, tuple(number for number in classes if not said[number])

    def left(one: tuple[Test, tuple[bool, ...]]) -> tuple[int, int, int]:
        test, (passing, failing) = one[0], parts(one[1])
        to = [len({node.children[number] for number in part}) for part in (passing, failing)]
        return sum(to), max(to), len(test.text)

    telling = [one for one in tests if all(parts(one[1]))]
    test, said = min(telling, key=left)
    then, otherwise = parts(said)
    return _Tree(test, _split(then, node, tests), _split(otherwise, node, tests))
