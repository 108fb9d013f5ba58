"""What rules ask of a deployment: every test, with the facts or constants that it may meet.

A test of one fact may meet the value of another one (``value_of``), or a constant (an assumption,
a derived fact): a :class:`Probe` is a test with one such way of meeting values. Deployments that
answer all probes alike are decided alike.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from moe_rules.engine.asked import asked_facts
from moe_rules.language.conditions import All, Any, Clause, Condition, Not
from moe_rules.language.fact_tests import FactTest, OneOf, SameAs
from moe_rules.language.requested import ROLE
from moe_rules.language.rules import AUTO, Assumed, Backend, Oracle, PlatformRules, ValueOf
from moe_rules.language.schemes import Schemes
from moe_rules.vocabulary.fact_values import FactValue, in_words

REQUEST = "moe_backend"
"""The fact that is the request."""


class Missing(enum.Enum):
    """The value of a fact that nobody supplied."""

    MISSING = "unknown"

    def __repr__(self) -> str:
        return self.value


MISSING = Missing.MISSING
Seen = FactValue | Missing
"""What a rule may find where it looks for a fact."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A constant that a test may meet."""

    value: Seen


@dataclass(frozen=True, slots=True)
class Probe:
    """A test, and what it meets: for the tested fact, then for each other one that it looks at."""

    test: FactTest
    operands: tuple[str | Fixed, ...]

    @property
    def facts(self) -> frozenset[str]:
        """The facts whose values it meets."""
        return frozenset(one for one in self.operands if isinstance(one, str))

    def answer(self, values: Mapping[str, Seen]) -> bool | None:
        """What the test says of these values."""
        seen = (one.value if isinstance(one, Fixed) else values[one] for one in self.operands)
        return answer(self.test, *seen)


def answer(test: FactTest, value: Seen, *others: Seen) -> bool | None:
    """What a test says of a value, and of those of the other facts it looks at; None if unknown."""
    if isinstance(value, Missing):
        return None
    known: dict[str, FactValue] = {}
    for name, other in zip(test.facts(), others, strict=True):
        if isinstance(other, Missing):
            return None
        known[name] = other
    return test.holds(value, known)


def equal_to(value: FactValue) -> OneOf:
    """The test for one value."""
    return OneOf(frozenset({value}), in_words(value))


def clauses(condition: Condition) -> Iterator[Clause]:
    """Every single test of a condition, those of quantization schemes too."""
    match condition:
        case Schemes():
            yield from clauses(condition.spelled_out())
        case All() | Any():
            for part in condition.parts:
                yield from clauses(part)
        case Not():
            yield from clauses(condition.part)
        case Clause():
            yield condition


class Questions:
    """Everything that some rule sets ask of deployments.

    ``constants`` are facts that are the same in all of them (``MISSING``: unknown), ``unknown``
    are ones that some leave out.
    """

    def __init__(
        self, constants: Mapping[str, Seen] | None = None, unknown: Collection[str] = ()
    ) -> None:
        self.constants: dict[str, Seen] = dict(constants or {})
        self.unknown = frozenset(unknown)
        self._tests: list[tuple[str, FactTest]] = []
        # In the order of the rules: which value stands for its class has to be the same every time.
        self._copies: dict[tuple[str, str], None] = {}
        self._fixed: dict[str, dict[Seen, None]] = {n: {v: None} for n, v in self.constants.items()}
        self._derived: set[str] = set()

    def add_condition(self, condition: Condition) -> None:
        """Ask what a condition asks."""
        self._tests += [(clause.fact, clause.test) for clause in clauses(condition)]

    def add_oracle(self, rules: PlatformRules, name: str) -> None:
        """Ask what an oracle asks."""
        oracle = rules.oracles[name]
        for condition in oracle.conditions():
            self.add_condition(condition)
        for assumed in _assumed(oracle):
            for fact, value in assumed:
                self.set(fact, value)
        self._add_request(rules, oracle)
        self._add_variants(oracle)
        asked = set(asked_facts(rules, name) | self.facts())
        for derived in reversed(rules.derived):
            self._derived.add(derived.fact.name)
            if derived.fact.name in asked:
                for when, value in derived.cases:
                    self.add_condition(when)
                    self.set(derived.fact.name, value)
                    asked.update(when.fact_names())
                    asked.update([value.fact] if isinstance(value, ValueOf) else ())

    def set(self, fact: str, value: FactValue | ValueOf) -> None:
        """A fact may also have this value, whatever a deployment says."""
        if isinstance(value, ValueOf):
            self._copies[fact, value.fact] = None
        else:
            self._fixed.setdefault(fact, {})[value] = None

    def _add_request(self, rules: PlatformRules, oracle: Oracle) -> None:
        for word in (AUTO, *oracle.requests):
            self._tests.append((REQUEST, equal_to(word)))
        for (role, name), request in rules.requested.items():
            if name in (None, oracle.name):
                self._tests.append((ROLE, equal_to(role)))
                self.set(REQUEST, request.backend)

    def _add_variants(self, oracle: Oracle) -> None:
        if oracle.variants is None:
            return
        fact = oracle.variants.fact
        values: list[FactValue | ValueOf] = [oracle.variants.fallback]
        values += [value for assumed in _assumed(oracle) for name, value in assumed if name == fact]
        for value in dict.fromkeys(values):
            test = SameAs(value.fact) if isinstance(value, ValueOf) else equal_to(value)
            self._tests.append((fact, test))

    # What comes of it --------------------------------------------------------------------------

    def probes(self) -> list[Probe]:
        """Every way in which a test may meet values that differ between deployments."""
        met = self._met()
        found: dict[Probe, None] = {}
        for fact, test in self._tests:
            options = [met.get(name) or self._own(name) for name in (fact, *test.facts())]
            for operands in itertools.product(*options):
                probe = Probe(test, operands)
                if probe.facts:
                    found.setdefault(probe)
        return list(found)

    def facts(self) -> frozenset[str]:
        """The facts that are asked about, constants among them."""
        asked = {name for fact, test in self._tests for name in (fact, *test.facts())}
        return frozenset(asked.union(*self._copies))

    def _own(self, fact: str) -> list[str | Fixed]:
        """What a fact is before any rule sets it."""
        if fact in self.constants:
            return [Fixed(self.constants[fact])]
        return [] if fact in self._derived else [fact]

    def _met(self) -> dict[str, list[str | Fixed]]:
        """What may be found for each fact that some rule sets: facts and constants."""
        names = dict.fromkeys([*(name for pair in self._copies for name in pair), *self._fixed])
        met: dict[str, dict[str | Fixed, None]] = {
            name: dict.fromkeys([*self._own(name), *map(Fixed, self._fixed.get(name, ()))])
            for name in names
        }
        changed = True
        while changed:
            changed = False
            for target, source in self._copies:
                before = len(met[target])
                met[target].update(met[source])
                changed = changed or len(met[target]) > before
        return {name: list(options) for name, options in met.items()}


def _assumed(oracle: Oracle) -> Iterator[Assumed]:
    """Every group of facts that the oracle assumes somewhere."""
    for assumption in oracle.assume:
        yield assumption.values
    backends: list[Backend] = [*oracle.backends.values()]
    for step in (*oracle.shortcuts, *oracle.switches):
        yield step.assume
        backends += [step.backend] if step.backend else []
    for cases in oracle.requests.values():
        for case in cases:
            yield case.assume
            backends += case.backends
    yield from (backend.assume for backend in backends)
