"""Quantization schemes: the pairs of weight and activation keys that a kernel takes."""

from __future__ import annotations

from collections.abc import Container, Iterator

from moe_rules.files.problems import Location
from moe_rules.language.conditions import (
    ALWAYS,
    NEVER,
    Any,
    Clause,
    Condition,
    Failure,
    all_of,
)
from moe_rules.language.fact_tests import Facts, FactTest, Predicate
from moe_rules.vocabulary.fact_values import FactValue, in_words
from moe_rules.vocabulary.record import Record


class Scheme(Record):
    """One line of a kernel's ``schemes``: weight and activation keys it takes, and when.

    The tests of keys look at no other fact.
    """

    weight: FactTest
    activation: FactTest
    when: Condition

    def words(self) -> str:
        text = f"{self.weight.words()} x {self.activation.words()}"
        return text if self.when is ALWAYS else f"{text} where {self.when.words()}"


class Schemes(Condition):
    """The pair (weight_key, activation_key) is one of the kernel's quantization schemes."""

    schemes: tuple[Scheme, ...]
    location: Location

    def holds(self, facts: Facts) -> bool | None:
        if "weight_key" not in facts or "activation_key" not in facts:
            return self.spelled_out().holds(facts)
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
        keys = (facts.get(name, "unknown") for name in ("weight_key", "activation_key"))
        seen = " x ".join(map(in_words, keys))
        wanted = " | ".join(scheme.words() for scheme in self.schemes)
        here = Failure(
            "quantization_scheme", "weight_key x activation_key", seen, wanted, self.location
        )
        return [here]

    def clauses(self) -> Iterator[Clause]:
        for scheme in self.schemes:
            yield from scheme.when.clauses()

    def spelled_out(self) -> Condition:
        """The same as alternatives, each with a clause for either key."""
        code, here = "quantization_scheme", self.location
        alternatives = tuple(
            all_of(
                Clause("weight_key", scheme.weight, code, here),
                Clause("activation_key", scheme.activation, code, here),
                scheme.when,
            )
            for scheme in self.schemes
        )
        return Any(alternatives, here)

    def fact_names(self) -> Iterator[str]:
        yield "weight_key"
        yield "activation_key"
        yield from Condition.fact_names(self)

    def fold(self, known: Facts, unknown: Container[str]) -> Condition:
        if "weight_key" in unknown or "activation_key" in unknown:
            return self.spelled_out().fold(known, unknown)
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
