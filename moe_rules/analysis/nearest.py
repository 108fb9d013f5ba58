"""The least change of a deployment after which the rules decide otherwise, exactly.

Of all deployments that can be and that have the wanted result, those are nearest of which fewest
facts differ that a user cannot change (``fixed`` in ``rules/worlds.yaml``), and then fewest others.
On a diagram that is a shortest path: each variable costs what its class does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from moe_rules.analysis.classes import Variable
from moe_rules.analysis.compiled import Compiled, compile_oracle
from moe_rules.analysis.diagram import LEAF, Node
from moe_rules.analysis.questions import MISSING, Seen
from moe_rules.analysis.worlds import packaged_worlds
from moe_rules.engine.explanation import Explanation
from moe_rules.engine.selection import Result
from moe_rules.language.rules import PlatformRules
from moe_rules.vocabulary import fact_values
from moe_rules.vocabulary.fact_values import FactValue, plain
from moe_rules.vocabulary.facts import REQUEST_DEFAULTS

Cost = tuple[int, int]
"""How many facts change that a user cannot change, and how many others."""

_NEVER: Cost = (1 << 30, 0)


@dataclass(frozen=True)
class Change:
    """A fact that has to have another value; ``value`` is one that will do."""

    fact: str
    before: Seen
    value: Seen
    fixed: bool
    """A user cannot change it: it is the device's or the checkpoint's."""

    def __str__(self) -> str:
        return f"{self.fact}: {_words(self.value)} instead of {_words(self.before)}"

    def to_dict(self) -> dict[str, object]:
        """Plain form."""
        before, value = (None if v is MISSING else plain(v) for v in (self.before, self.value))
        return {"fact": self.fact, "before": before, "value": value, "fixed": self.fixed}


Ways = list[tuple[Change, ...]]
"""Changes that cost the same, of which each will do."""


def _words(value: Seen) -> str:
    return "unknown" if value is MISSING else fact_values.in_words(value)


def nearest(
    rules: PlatformRules,
    oracle: str,
    facts: Mapping[str, FactValue],
    wanted: Callable[[Result], bool],
    *,
    most: int = 3,
) -> Ways:
    """The least changes of a deployment that have a result which is ``wanted``, at most ``most``.

    ``facts``: the deployment; what it lacks is unknown, and may stay so. All that are returned cost
    the same. Empty where no deployment on the platform has such a result; one of no changes where
    this one has it. Raises KeyError for an oracle that the rules do not have.
    """
    compiled = compile_oracle([rules], oracle, deployment=facts)
    return _Search(compiled, {**REQUEST_DEFAULTS, **facts}).solutions(wanted, most)


def least_changes(decision: Explanation, backend: str | None = None) -> Ways:
    """The least changes after which a backend is selected, or any at all (None)."""
    # The request that applies is among the facts; those of rule files would take its place.
    rules = decision.rules.replaced(requested={})
    if backend is None:
        return nearest(rules, decision.oracle, decision.deployment, serves)
    return nearest(rules, decision.oracle, decision.deployment, lambda r: r.backend == backend)


def serves(result: Result) -> bool:
    """Whether any backend is selected."""
    return result.error is None


def in_words(ways: Ways) -> list[str]:
    """A line for each way, with what the user cannot change said to be so."""
    lines = []
    for changes in ways:
        line = "; ".join(map(str, changes))
        fixed = [change.fact for change in changes if change.fixed]
        lines.append(f"{line}  (not yours to change: {', '.join(fixed)})" if fixed else line)
    return lines


def to_be_served(ways: Ways, platform: str) -> list[str]:
    """The least changes after which any backend serves, as lines; that there are none is one."""
    return in_words(ways) or [f"nothing on {platform} makes a backend of this oracle serve"]


class Neighbours:
    """The least changes of many deployments, of which those of the same classes share them.

    ``wanted`` says which results are to come out. Raises KeyError for an oracle that the rules do
    not have.
    """

    def __init__(
        self,
        rules: PlatformRules,
        oracle: str,
        wanted: Callable[[Result], bool],
        *,
        most: int = 3,
    ) -> None:
        self._rules = rules
        self._oracle = oracle
        self._wanted = wanted
        self._most = most
        self._known: list[_Known] = []

    def nearest(self, facts: Mapping[str, FactValue]) -> Ways:
        """See :func:`nearest`."""
        for known in self._known:
            if known.holds(facts):
                return known.ways
        compiled = compile_oracle([self._rules], self._oracle, deployment=facts)
        search = _Search(compiled, {**REQUEST_DEFAULTS, **facts})
        ways = search.solutions(self._wanted, self._most)
        self._known.append(_Known(compiled.space.variables, dict(facts), ways))
        return ways


@dataclass(frozen=True)
class _Known:
    """The least changes of one deployment."""

    variables: Sequence[Variable]
    deployment: Mapping[str, FactValue]
    ways: Ways

    def holds(self, facts: Mapping[str, FactValue]) -> bool:
        """Whether they are those of another deployment as well.

        It has to be of the same classes, and to have the same values of all that is changed.
        """
        if facts.keys() != self.deployment.keys():
            return False
        changed = {change.fact for changes in self.ways for change in changes}
        for variable in self.variables:
            one, other = (
                {
                    name: given.get(name, REQUEST_DEFAULTS.get(name, MISSING))
                    for name in variable.facts
                }
                for given in (self.deployment, facts)
            )
            if one == other:
                continue
            if not changed.isdisjoint(variable.facts) or variable.find(one) != variable.find(other):
                return False
        return True


class _Search:
    """The shortest ways from one deployment to a region."""

    def __init__(self, compiled: Compiled, facts: Mapping[str, FactValue]) -> None:
        self.compiled = compiled
        self.fixed = packaged_worlds().fixed
        self.options = [self._options(variable, facts) for variable in compiled.space.variables]

    def solutions(self, wanted: Callable[[Result], bool], most: int) -> Ways:
        diagrams = self.compiled.space.diagrams
        region = diagrams.both(
            self.compiled.possible,
            diagrams.map(
                lambda result: isinstance(result, Result) and wanted(result),
                self.compiled.selections[0].results,
            ),
        )
        costs: dict[Node, Cost] = {}

        def cost(node: Node) -> Cost:
            if node.level == LEAF:
                return (0, 0) if node.value is True else _NEVER
            if node not in costs:
                costs[node] = min(total for total, _, _ in ways(node))
            return costs[node]

        def ways(node: Node) -> Iterator[tuple[Cost, tuple[Change, ...], Node]]:
            for changes, child in zip(self.options[node.level], node.children, strict=True):
                rest, fixed = cost(child), sum(change.fixed for change in changes)
                total = (rest[0] + fixed, rest[1] + len(changes) - fixed)
                yield total, changes, child

        def paths(node: Node) -> Iterator[tuple[Change, ...]]:
            if node.level == LEAF:
                yield ()
                return
            least = cost(node)
            cheapest = [(changes, child) for total, changes, child in ways(node) if total == least]
            for changes, child in _slips_first(cheapest):
                yield from (changes + rest for rest in paths(child))

        if cost(region) >= _NEVER:
            return []
        return list(itertools.islice(paths(region), most))

    def _options(self, variable: Variable, facts: Mapping[str, FactValue]) -> Ways:
        """The least changes that bring a deployment into each class of a variable."""
        before = [facts.get(name, MISSING) for name in variable.facts]
        pools = [
            sorted({one[i] for members in variable.classes for one in members}, key=_near(value))
            for i, value in enumerate(before)
        ]
        # By what it costs to change them, so that the first way into a class is the least one.
        subsets = sorted(
            itertools.product((False, True), repeat=len(before)),
            key=lambda changed: self._cost(itertools.compress(variable.facts, changed)),
        )
        found: dict[int, tuple[Change, ...]] = {}
        for changed in subsets:
            choices = [
                pool if changes else (value,)
                for changes, pool, value in zip(changed, pools, before, strict=True)
            ]
            for values in itertools.product(*choices):
                number = variable.find(dict(zip(variable.facts, values, strict=True)))
                if number is not None and number not in found:
                    found[number] = tuple(
                        Change(name, old, new, name in self.fixed)
                        for name, old, new in zip(variable.facts, before, values, strict=True)
                        if type(old) is not type(new) or old != new
                    )
            if len(found) == len(variable.classes):
                break
        return [found[number] for number in range(len(variable.classes))]

    def _cost(self, names: Iterable[str]) -> Cost:
        fixed = [name in self.fixed for name in names]
        return (sum(fixed), len(fixed) - sum(fixed))


def _slips_first(
    ways: list[tuple[tuple[Change, ...], Node]],
) -> list[tuple[tuple[Change, ...], Node]]:
    """The same ways, those first that give a text the value which looks most like it."""
    changes = [change for way, _ in ways for change in way if isinstance(change.before, str)]
    texts = [change.value for change in changes if isinstance(change.value, str)]
    meant = {one: fact_values.nearest(one, texts) for one in {change.before for change in changes}}
    return sorted(ways, key=lambda way: all(meant.get(c.before) != c.value for c in way[0]))


def _near(value: Seen) -> Callable[[Seen], tuple[float, str]]:
    """Sorts other values: those near a number first, others by name."""

    def distance(other: Seen) -> tuple[float, str]:
        if isinstance(value, int | float) and isinstance(other, int | float):
            return (abs(value - other), "")
        return (math.inf, str(other))

    return distance
