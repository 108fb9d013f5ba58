"""Conditions: tests on facts joined by *and*, ``any``, ``all`` and ``not``.

A condition is three-valued: an unknown fact makes a clause neither hold nor fail. Requirements
ask whether a condition *fails* (unknown abstains), adjustments whether it *holds*.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from moe_rules.files.problems import Location
from moe_rules.language.fact_tests import Facts, FactTest, Predicate
from moe_rules.vocabulary.fact_values import in_words
from moe_rules.vocabulary.record import Record


class Failure(Record):
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


class Condition(Record):
    """A node of a condition."""

    def holds(self, facts: Facts) -> bool | None:
        """True, False, or None where unknown facts leave it open."""
        raise NotImplementedError

    def failures(self, facts: Facts) -> list[Failure]:
        """Every clause that fails; empty where nothing fails."""
        raise NotImplementedError

    def clauses(self) -> Iterator[Clause]:
        """Every single test inside the condition."""
        raise NotImplementedError

    def fact_names(self) -> Iterator[str]:
        """Every fact the condition looks at."""
        for clause in self.clauses():
            yield clause.fact
            yield from clause.test.facts()

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


class Constant(Condition):
    """A condition that no longer depends on any fact."""

    value: bool | None

    def holds(self, facts: Facts) -> bool | None:
        return self.value

    def failures(self, facts: Facts) -> list[Failure]:
        return []

    def clauses(self) -> Iterator[Clause]:
        return iter(())

    def fold(self, known: Facts, unknown: Container[str]) -> Condition:
        return self

    def predicate(self, *, unknown: bool) -> Predicate:
        value = unknown if self.value is None else self.value
        return lambda facts: value

    def words(self) -> str:
        return {True: "always", False: "never", None: "unknown"}[self.value]

    def __reduce__(self) -> str:
        """Copies are the same object, with which code asks for identity."""
        return {True: "ALWAYS", False: "NEVER", None: "UNKNOWN"}[self.value]


ALWAYS = Constant(True)
NEVER = Constant(False)
UNKNOWN = Constant(None)


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

    def clauses(self) -> Iterator[Clause]:
        yield self

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


class Implied(Clause):
    """A clause that no file has: what a feature asks of kernels that do not support it."""


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

    def clauses(self) -> Iterator[Clause]:
        for part in self.parts:
            yield from part.clauses()

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

    def clauses(self) -> Iterator[Clause]:
        for part in self.parts:
            yield from part.clauses()

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
        code = next((c.code for c in self.part.clauses()), "request")
        return [Failure(code, " & ".join(names), seen, wanted, self.location)]

    def clauses(self) -> Iterator[Clause]:
        return self.part.clauses()

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
