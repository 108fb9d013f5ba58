"""Conditions: tests on facts joined by *and*, ``any``, ``all`` and ``not``.

A condition is three-valued: an unknown fact makes a clause neither hold nor fail. Requirements
ask whether a condition *fails* (unknown abstains), adjustments whether it *holds*.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from moe_rules.facts import FactValue, in_words
from moe_rules.language.fact_tests import Facts, FactTest, Predicate
from moe_rules.problems import Location


@dataclass(frozen=True, slots=True)
class Failure:
    """A clause that failed: the fact, the value seen, the value wanted, and where that is said.

    ``alternatives`` holds, for a failed ``any``, what failed in each alternative.
    """

    code: str
    fact: str
    seen: str
    wanted: str
    location: Location
    alternatives: tuple[tuple[Failure, ...], ...] = ()

    def __str__(self) -> str:
        if self.alternatives:
            branches = " | ".join("; ".join(map(str, branch)) for branch in self.alternatives)
            return f"none of the alternatives holds: {branches}"
        return f"{self.fact} is {self.seen}, wanted {self.wanted}"

    def to_dict(self) -> dict[str, object]:
        """Plain form."""
        result: dict[str, object] = {
            "code": self.code,
            "fact": self.fact,
            "seen": self.seen,
            "wanted": self.wanted,
            "at": str(self.location),
        }
        if self.alternatives:
            result["alternatives"] = [[f.to_dict() for f in b] for b in self.alternatives]
        return result


class Condition:
    """A node of a condition."""

    __slots__ = ()

    def holds(self, facts: Facts) -> bool | None:
        """True, False, or None where unknown facts leave it open."""
        raise NotImplementedError

    def failures(self, facts: Facts) -> list[Failure]:
        """Every clause that fails; empty where nothing fails."""
        raise NotImplementedError

    def fact_names(self) -> Iterator[str]:
        """Every fact the condition looks at."""
        raise NotImplementedError

    def fold(self, known: Facts, unknown: Container[str]) -> Condition:
        """The same condition with the ``known`` facts filled in.

        Facts in ``unknown`` will never be supplied. The result is :data:`ALWAYS`,
        :data:`NEVER`, :data:`UNKNOWN`, or what still depends on other facts.
        """
        raise NotImplementedError

    def predicate(self, *, unknown: bool) -> Predicate:
        """A fast function of the facts, ``unknown`` standing for what is not known.

        The function raises KeyError where a fact that it needs is missing.
        """
        raise NotImplementedError

    def words(self) -> str:
        """The condition in one line."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Constant(Condition):
    """A condition that no longer depends on any fact."""

    value: bool | None

    def holds(self, facts: Facts) -> bool | None:
        return self.value

    def failures(self, facts: Facts) -> list[Failure]:
        return []

    def fact_names(self) -> Iterator[str]:
        return iter(())

    def fold(self, known: Facts, unknown: Container[str]) -> Condition:
        return self

    def predicate(self, *, unknown: bool) -> Predicate:
        value = unknown if self.value is None else self.value
        return lambda facts: value

    def words(self) -> str:
        return {True: "always", False: "never", None: "unknown"}[self.value]


ALWAYS = Constant(True)
NEVER = Constant(False)
UNKNOWN = Constant(None)


@dataclass(frozen=True, slots=True)
class Clause(Condition):
    """One test on one fact."""

    fact: str
    test: FactTest
    code: str
    location: Location

    def holds(self, facts: Facts) -> bool | None:
        try:
            return self.test.holds(facts[self.fact], facts)
        except KeyError:
            return None

    def failures(self, facts: Facts) -> list[Failure]:
        if self.holds(facts) is not False:
            return []
        seen = in_words(facts[self.fact])
        for other in self.test.facts():
            seen += f" ({other} is {in_words(facts[other])})"
        return [Failure(self.code, self.fact, seen, self.test.words(), self.location)]

    def fact_names(self) -> Iterator[str]:
        yield self.fact
        yield from self.test.facts()

    def fold(self, known: Facts, unknown: Container[str]) -> Condition:
        needed = (self.fact, *self.test.facts())
        if any(name in unknown for name in needed):
            return UNKNOWN
        if all(name in known for name in needed):
            return ALWAYS if self.holds(known) else NEVER
        return self

    def predicate(self, *, unknown: bool) -> Predicate:
        return self.test.predicate(self.fact)

    def words(self) -> str:
        return f"{self.fact}: {self.test.words()}"


@dataclass(frozen=True, slots=True)
class All(Condition):
    """Every part holds."""

    parts: tuple[Condition, ...]

    def holds(self, facts: Facts) -> bool | None:
        result: bool | None = True
        for part in self.parts:
            value = part.holds(facts)
            if value is False:
                return False
            if value is None:
                result = None
        return result

    def failures(self, facts: Facts) -> list[Failure]:
        return [failure for part in self.parts for failure in part.failures(facts)]

    def fact_names(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.fact_names()

    def fold(self, known: Facts, unknown: Container[str]) -> Condition:
        parts = [part.fold(known, unknown) for part in self.parts]
        if NEVER in parts:
            return NEVER
        return all_of(*(part for part in parts if part is not ALWAYS))

    def predicate(self, *, unknown: bool) -> Predicate:
        parts = [part.predicate(unknown=unknown) for part in self.parts]
        if len(parts) == 2:
            first, second = parts
            return lambda facts: first(facts) and second(facts)

        def every(facts: Facts) -> bool:
            for part in parts:  # noqa: SIM110 (a generator costs three times as much here)
                if not part(facts):
                    return False
            return True

        return every

    def words(self) -> str:
        return ", ".join(part.words() for part in self.parts)


@dataclass(frozen=True, slots=True)
class Any(Condition):
    """At least one part holds."""

    parts: tuple[Condition, ...]
    location: Location

    def holds(self, facts: Facts) -> bool | None:
        result: bool | None = False
        for part in self.parts:
            value = part.holds(facts)
            if value is True:
                return True
            if value is None:
                result = None
        return result

    def failures(self, facts: Facts) -> list[Failure]:
        if self.holds(facts) is not False:
            return []
        branches = tuple(tuple(part.failures(facts)) for part in self.parts)
        flat = [failure for branch in branches for failure in branch]
        names = " | ".join(dict.fromkeys(failure.fact for failure in flat))
        seen = "; ".join(dict.fromkeys(f"{f.fact} is {f.seen}" for f in flat))
        wanted = " | ".join(part.words() for part in self.parts)
        code = flat[0].code if flat else "request"
        return [Failure(code, names, seen, wanted, self.location, branches)]

    def fact_names(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.fact_names()

    def fold(self, known: Facts, unknown: Container[str]) -> Condition:
        parts = [part.fold(known, unknown) for part in self.parts]
        if ALWAYS in parts:
            return ALWAYS
        rest = tuple(part for part in parts if part is not NEVER)
        if not rest:
            return NEVER
        return rest[0] if len(rest) == 1 else Any(rest, self.location)

    def predicate(self, *, unknown: bool) -> Predicate:
        parts = [part.predicate(unknown=unknown) for part in self.parts]

        def some(facts: Facts) -> bool:
            for part in parts:  # noqa: SIM110
                if part(facts):
                    return True
            return False

        return some

    def words(self) -> str:
        return "any of (" + " | ".join(part.words() for part in self.parts) + ")"


@dataclass(frozen=True, slots=True)
class Not(Condition):
    """The part does not hold."""

    part: Condition
    location: Location

    def holds(self, facts: Facts) -> bool | None:
        value = self.part.holds(facts)
        return None if value is None else not value

    def failures(self, facts: Facts) -> list[Failure]:
        if self.holds(facts) is not False:
            return []
        names = list(dict.fromkeys(self.part.fact_names()))
        seen = "; ".join(f"{name} is {in_words(facts[name])}" for name in names if name in facts)
        wanted = f"not ({self.part.words()})"
        code = next((c.code for c in clauses(self.part)), "request")
        return [Failure(code, " & ".join(names), seen, wanted, self.location)]

    def fact_names(self) -> Iterator[str]:
        return self.part.fact_names()

    def fold(self, known: Facts, unknown: Container[str]) -> Condition:
        part = self.part.fold(known, unknown)
        if isinstance(part, Constant):
            return {True: NEVER, False: ALWAYS, None: UNKNOWN}[part.value]
        return Not(part, self.location)

    def predicate(self, *, unknown: bool) -> Predicate:
        part = self.part.predicate(unknown=not unknown)
        return lambda facts: not part(facts)

    def words(self) -> str:
        return f"not ({self.part.words()})"


@dataclass(frozen=True, slots=True)
class Scheme:
    """One line of a kernel's ``schemes``: weight and activation keys it takes, and when."""

    weight: FactTest
    activation: FactTest
    when: Condition

    def words(self) -> str:
        text = f"{self.weight.words()} x {self.activation.words()}"
        return text if self.when is ALWAYS else f"{text} where {self.when.words()}"


@dataclass(frozen=True, slots=True)
class Schemes(Condition):
    """The pair (weight_key, activation_key) is one of the kernel's quantization schemes."""

    schemes: tuple[Scheme, ...]
    location: Location

    def holds(self, facts: Facts) -> bool | None:
        if "weight_key" not in facts or "activation_key" not in facts:
            return None
        result: bool | None = False
        for scheme in self._of(facts):
            value = scheme.when.holds(facts)
            if value is True:
                return True
            if value is None:
                result = None
        return result

    def _of(self, facts: Facts) -> Iterator[Scheme]:
        weight, activation = facts["weight_key"], facts["activation_key"]
        for scheme in self.schemes:
            if scheme.weight.holds(weight, facts) and scheme.activation.holds(activation, facts):
                yield scheme

    def failures(self, facts: Facts) -> list[Failure]:
        if self.holds(facts) is not False:
            return []
        seen = f"{in_words(facts['weight_key'])} x {in_words(facts['activation_key'])}"
        wanted = " | ".join(scheme.words() for scheme in self.schemes)
        here = Failure(
            "quantization_scheme", "weight_key x activation_key", seen, wanted, self.location
        )
        return [here]

    def fact_names(self) -> Iterator[str]:
        yield "weight_key"
        yield "activation_key"
        for scheme in self.schemes:
            yield from scheme.when.fact_names()

    def fold(self, known: Facts, unknown: Container[str]) -> Condition:
        if "weight_key" in unknown or "activation_key" in unknown:
            return UNKNOWN
        rest: list[Scheme] = []
        for scheme in self.schemes:
            when = scheme.when.fold(known, unknown)
            if when is NEVER:
                continue
            if "weight_key" in known and not scheme.weight.holds(known["weight_key"], known):
                continue
            if "activation_key" in known:
                if not scheme.activation.holds(known["activation_key"], known):
                    continue
                if "weight_key" in known and when is ALWAYS:
                    return ALWAYS
            rest.append(Scheme(scheme.weight, scheme.activation, when))
        return Schemes(tuple(rest), self.location) if rest else NEVER

    def predicate(self, *, unknown: bool) -> Predicate:
        whens = [
            (scheme, None if scheme.when is ALWAYS else scheme.when.predicate(unknown=unknown))
            for scheme in self.schemes
        ]
        matching: dict[tuple[FactValue, FactValue], bool | list[Predicate]] = {}

        def match(facts: Facts) -> bool | list[Predicate]:
            """What the pair of keys comes to: decided, or by the conditions of its lines."""
            weight, activation = facts["weight_key"], facts["activation_key"]
            found = [
                when
                for scheme, when in whens
                if scheme.weight.holds(weight, facts) and scheme.activation.holds(activation, facts)
            ]
            return True if None in found else [when for when in found if when] or False

        def supported(facts: Facts) -> bool:
            pair = (facts["weight_key"], facts["activation_key"])
            answer = matching.get(pair)
            if answer is None:
                answer = matching[pair] = match(facts)
            if answer is True or answer is False:
                return answer
            return any(when(facts) for when in answer)

        return supported

    def words(self) -> str:
        return "schemes: " + " | ".join(scheme.words() for scheme in self.schemes)


def all_of(*parts: Condition) -> Condition:
    """Join conditions by *and*, without needless nesting."""
    flat: list[Condition] = []
    for part in parts:
        if isinstance(part, All):
            flat.extend(part.parts)
        elif part is not ALWAYS:
            flat.append(part)
    if not flat:
        return ALWAYS
    return flat[0] if len(flat) == 1 else All(tuple(flat))


def clauses(condition: Condition) -> Iterator[Clause]:
    """Every single test inside a condition."""
    match condition:
        case Clause():
            yield condition
        case All(parts) | Any(parts, _):
            for part in parts:
                yield from clauses(part)
        case Not(part, _):
            yield from clauses(part)
        case Schemes(schemes, _):
            for scheme in schemes:
                yield from clauses(scheme.when)
