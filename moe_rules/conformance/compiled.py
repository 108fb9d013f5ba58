"""An oracle's answers to recorded cases: outcome, order, and what each kernel says.

All come from diagrams, which are walked together: a step is where a case has come in each of them,
and the class of one variable leads on in all. A step is made when the first case comes there, for
there may be many more than cases ever come to. What no rule tells apart ends at one step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from moe_rules.analysis.classes import Variable
from moe_rules.analysis.diagram import LEAF, Node
from moe_rules.analysis.plain_form import from_plain, to_plain
from moe_rules.analysis.questions import REQUEST
from moe_rules.conformance.cases import Asked, Parts
from moe_rules.engine.selection import Result
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.stored import stored
from moe_rules.language.requested import ROLE
from moe_rules.language.rules import PlatformRules
from moe_rules.machines.machine import machines_file
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.switches import SWITCHES

MAX_STEPS = 1 << 20
"""Steps that an oracle keeps before it begins anew."""
MAX_VALUES = 1 << 16
"""Values of a variable whose classes are kept."""
ROOMS = ("files", "vocabulary", "machines", "language", "engine", "analysis", "conformance")
"""The packages whose code makes diagrams of rules."""

_PART_OF_GROUP = {
    **{name: name for name in ("platform", "software", "layer")},
    "parallel": "layer",
    "quantization": "options",
    "request": "runtime",
}
_PART_OF = {
    **{name: _PART_OF_GROUP[fact.group] for name, fact in FACTS.items()},
    **dict.fromkeys((*SWITCHES, ROLE), "switches"),
    REQUEST: "layer",
    "weight_key": "weight",
    "activation_key": "activation",
}
"""The part of a case that has a fact."""


class Answers:
    """What an oracle says of cases that no rule tells apart.

    ``possible`` is whether there can be such a deployment, as far as the oracle asks about it;
    ``order`` that of backends when the outcome fell.
    """

    __slots__ = ("_place", "_said", "order", "possible", "result")

    def __init__(self, said: tuple[Any, ...], place: Mapping[Asked, int]) -> None:
        self.result: Result = said[0]
        self.order: tuple[str, ...] = said[1]
        self.possible: bool = said[2]
        self._said = said
        self._place = place

    def takes(self, backend: str | None, kernel: str | None) -> bool:
        """Whether a backend's kernel takes the layer, or the backend itself (``kernel`` None).

        Without a backend it is the first one that is asked and has the kernel.
        """
        place = self._place.get((backend, kernel))
        return place is not None and self._said[place] is True


class CompiledOracle:
    """One oracle's rules on all machines of a platform, asked with the parts of a case's facts.

    ``diagrams`` are those of the outcome, the order, and whether there can be such a deployment,
    ``takes`` those of each kernel, all over ``variables``.
    """

    def __init__(
        self,
        variables: tuple[Variable, ...],
        diagrams: tuple[Node, Node, Node],
        takes: Mapping[Asked, Node],
    ) -> None:
        self.asks = [_Ask.of(variable) for variable in variables]
        kernels = list(dict.fromkeys(takes.values()))
        first = len(diagrams)
        self.place = {pair: first + kernels.index(node) for pair, node in takes.items()}
        self._steps: dict[tuple[Node, ...], _Step] = {}
        self._start = _Step(self, (*diagrams, *kernels))

    def answers(self, parts: Parts) -> Answers:
        """The answers to a case.

        Raises LookupError where it lacks a fact that is asked for or has a value that no class
        has, TypeError for a value that no fact has.
        """
        step = self._start
        while step.asks is not None:
            (part, fact), others, classes = step.asks
            value: Any = parts[part][fact]
            if others:
                value = (value, *[parts[other][name] for other, name in others])
            step = step[classes[value]]
        return step.answers

    def step(self, nodes: tuple[Node, ...]) -> _Step:
        """The step at some node of each diagram."""
        found = self._steps.get(nodes)
        if found is None:
            if len(self._steps) >= MAX_STEPS:
                self._steps.clear()
                self._start.clear()
            found = self._steps[nodes] = _Step(self, nodes)
        return found


class _Step(dict[int, "_Step"]):
    """Where cases have come, and the next step for each class of the variable that it asks for.

    Where all has been asked, ``asks`` is None, and there are ``answers``.
    """

    __slots__ = ("_asking", "_nodes", "_oracle", "answers", "asks")

    def __init__(self, oracle: CompiledOracle, nodes: tuple[Node, ...]) -> None:
        self._oracle = oracle
        self._nodes = nodes
        levels = [node.level for node in nodes]
        level = min(levels)
        self._asking = [i for i, one in enumerate(levels) if one == level]
        self.asks = None if level == LEAF else oracle.asks[level]
        if self.asks is None:
            self.answers = Answers(tuple([node.value for node in nodes]), oracle.place)

    def __missing__(self, number: int) -> _Step:
        nodes = list(self._nodes)
        for i in self._asking:
            nodes[i] = nodes[i].children[number]
        found = self[number] = self._oracle.step(tuple(nodes))
        return found


class _Classes(dict[Any, int]):
    """The class of every value of a variable that was met; of several facts, of their values."""

    def __init__(self, variable: Variable) -> None:
        super().__init__()
        self._variable = variable

    def __missing__(self, value: Any) -> int:
        facts = self._variable.facts
        values = (value,) if len(facts) == 1 else value
        number = self._variable.number(dict(zip(facts, values, strict=True)))
        if len(self) < MAX_VALUES:
            self[value] = number
        return number


_Place = tuple[int, str]
"""The position of a part of a case, and a fact of it."""


class _Ask(NamedTuple):
    """What reads the class of a variable: where its first fact is, and where others are."""

    first: _Place
    others: tuple[_Place, ...]
    classes: _Classes

    @classmethod
    def of(cls, variable: Variable) -> _Ask:
        first, *others = [(Parts._fields.index(_PART_OF[fact]), fact) for fact in variable.facts]
        return cls(first, tuple(others), _Classes(variable))


def compiled_oracles(rules: PlatformRules) -> dict[str, CompiledOracle]:
    """The oracles of rules that were loaded from files, by name. Their diagrams are stored."""

    def make() -> dict[str, Any]:
        from moe_rules.conformance.diagrams import oracle_diagrams

        return to_plain({name: oracle_diagrams(rules, name) for name in rules.oracles})

    what = f"diagrams of {rules.platform}, rules {rules.fingerprint}"
    files = [packaged_rules() / "worlds.yaml", machines_file()]
    diagrams = from_plain(stored(what, files, ROOMS, make))
    return {name: CompiledOracle(*of_oracle) for name, of_oracle in diagrams.items()}
