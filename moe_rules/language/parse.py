"""Reads conditions and tests out of plain YAML values, against the vocabulary.

Everything wrong is collected in :attr:`Parser.problems` with its place; what could be read is
still returned, so that one pass over a file finds all its errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any as AnyValue

from moe_rules.files.problems import KeyPath, Problem
from moe_rules.files.yaml_source import YamlSource
from moe_rules.language.conditions import (
    ALWAYS,
    Any,
    Clause,
    Condition,
    Not,
    all_of,
)
from moe_rules.language.fact_tests import (
    AnyTest,
    Anything,
    Compare,
    FactTest,
    Family,
    IsSet,
    MultipleOf,
    NotTest,
    OneOf,
    Prefix,
    SameAs,
    SwitchIs,
    comparison,
)
from moe_rules.language.key_patterns import key_pattern
from moe_rules.language.reasons import reason_code
from moe_rules.language.rules import ValueOf
from moe_rules.language.schemes import Scheme, Schemes
from moe_rules.vocabulary.fact_values import (
    Fact,
    FactError,
    FactValue,
    did_you_mean,
    in_words,
    parse_number,
    parse_value,
    parse_version,
)

JOINERS = ("any", "all", "not", "is")


class Parser:
    """Parses the conditions of one document.

    ``sets`` are named sets of raw values (``$name``); ``conditions`` resolves the name of a
    shared condition (``is: name``), returning None for one that does not exist.
    """

    def __init__(
        self,
        source: YamlSource,
        facts: Mapping[str, Fact],
        sets: Mapping[str, list[AnyValue]],
        conditions: Callable[[str], Condition | None] = lambda name: None,
        condition_names: Callable[[], list[str]] = list,
    ) -> None:
        self.source = source
        self.facts = facts
        self.sets = sets
        self.named = conditions
        self.condition_names = condition_names
        self.problems: list[Problem] = []

    def problem(self, code: str, message: str, path: KeyPath, *, key: bool = False) -> None:
        """Note something wrong at ``path`` (at its key where ``key``)."""
        place = self.source.key_at(path) if key else self.source.at(path)
        self.problems.append(Problem(code, message, place))

    def condition(self, raw: AnyValue, path: KeyPath) -> Condition:
        """Read a mapping of facts to tests; all of them must hold."""
        if raw is None:
            return ALWAYS
        if not isinstance(raw, dict):
            self.problem("bad-condition", "a condition is a mapping of facts to tests", path)
            return ALWAYS
        parts: list[Condition] = []
        for name, value in raw.items():
            here = (*path, name)
            if name in JOINERS:
                parts.append(self._joined(name, value, here))
            elif (fact := self.fact(name, here, key=True, others=JOINERS)) is not None:
                test = self.test(fact, value, here)
                if not isinstance(test, Anything):
                    parts.append(Clause(name, test, reason_code(fact), self.source.key_at(here)))
        return all_of(*parts)

    def fact(
        self, name: str, path: KeyPath, *, key: bool = False, others: Sequence[str] = ()
    ) -> Fact | None:
        """The fact of that name; None, which is noted, for none. ``others`` may be meant, too."""
        fact = self.facts.get(name)
        if fact is None:
            hint = did_you_mean(name, [*self.facts, *others])
            self.problem("unknown-fact", f"there is no fact {name!r}{hint}", path, key=key)
        return fact

    def _joined(self, joiner: str, raw: AnyValue, path: KeyPath) -> Condition:
        place = self.source.key_at(path)
        if joiner == "not":
            return Not(self.condition(raw, path), place)
        if joiner == "is":
            names = raw if isinstance(raw, list) else [raw]
            return all_of(*(self._named(name, path) for name in names))
        if not isinstance(raw, list) or not raw:
            self.problem("bad-condition", f"{joiner!r} takes a list of conditions", path)
            return ALWAYS
        parts = tuple(self.condition(part, (*path, i)) for i, part in enumerate(raw))
        return all_of(*parts) if joiner == "all" else Any(parts, place)

    def _named(self, name: AnyValue, path: KeyPath) -> Condition:
        condition = self.named(str(name))
        if condition is None:
            hint = did_you_mean(str(name), self.condition_names())
            self.problem("unknown-condition", f"there is no condition {name!r}{hint}", path)
            return ALWAYS
        return condition

    def test(self, fact: Fact, raw: AnyValue, path: KeyPath) -> FactTest:
        """Read what stands to the right of a fact's name."""
        try:
            test = self._test(fact, raw, path)
            if fact.per_call and not isinstance(test, Compare):
                raise _only_compared(fact)
            return test
        except FactError as error:
            self.problem("bad-value", str(error), path)
            return Anything()

    def _test(self, fact: Fact, raw: AnyValue, path: KeyPath) -> FactTest:
        if isinstance(raw, list):
            return self._one_of(fact, raw, path)
        if isinstance(raw, dict):
            return self._structured(fact, raw, path)
        if isinstance(raw, str):
            if raw == "any":
                return Anything()
            if raw.startswith("$"):
                return self._one_of(fact, [raw], path)
            if fact.type == "switch" and raw in ("set", "unset"):
                return IsSet(raw == "set")
            if raw.startswith(("<", ">")):
                return self._comparison(fact, raw)
            if fact.type == "version" and raw.endswith(".*"):
                return Family(parse_version(f"{raw[:-1]}0")[0])
            if fact.type in ("string", "enum") and raw.endswith("*") and len(raw) > 1:
                return self._prefix(fact, raw[:-1])
        value = parse_value(fact, raw)
        if isinstance(value, bool) and fact.type == "switch":
            return SwitchIs(value, bool(fact.default))
        return OneOf(frozenset([value]), in_words(value))

    def _one_of(self, fact: Fact, raws: list[AnyValue], path: KeyPath) -> FactTest:
        if not raws:
            raise FactError(f"an empty list: no value of {fact.name} could pass")
        tests: list[FactTest] = []
        for i, raw in enumerate(raws):
            here = (*path, i) if len(raws) > 1 else path
            if isinstance(raw, str) and raw.startswith("$"):
                tests.append(self._one_of(fact, self._set(raw), here))
            else:
                tests.append(self._test(fact, raw, here))
        values = [v for t in tests if isinstance(t, OneOf) for v in t.values]
        if all(isinstance(test, OneOf) for test in tests):
            if len(tests) == 1:
                return tests[0]
            words = "[" + ", ".join(in_words(value) for value in dict.fromkeys(values)) + "]"
            return OneOf(frozenset(values), words)
        return AnyTest(tuple(tests))

    def _prefix(self, fact: Fact, prefix: str) -> FactTest:
        if fact.values and not any(value.startswith(prefix) for value in fact.values):
            raise FactError(f"no value of {fact.name} begins with {prefix!r} ({fact.domain})")
        return Prefix(prefix)

    def _comparison(self, fact: Fact, raw: str) -> FactTest:
        if fact.type not in ("int", "float", "version"):
            raise FactError(f"{fact.name} has no order, so {raw!r} cannot be tested")
        return comparison(raw, parse_version if fact.type == "version" else parse_number)

    def _structured(self, fact: Fact, raw: dict[str, AnyValue], path: KeyPath) -> FactTest:
        if len(raw) == 1:
            ((word, operand),) = raw.items()
            if word == "not":
                return NotTest(self._test(fact, operand, (*path, "not")))
            if word == "same_as":
                return SameAs(self._other_fact(operand, fact.type))
            if word == "multiple_of" and fact.type == "int":
                if type(operand) is int and operand > 0:
                    return MultipleOf(operand)
                return MultipleOf(self._other_fact(operand, "int"))
        if fact.type == "quant_key":
            return key_pattern(raw, self._set)
        known = ["not", "same_as"] + (["multiple_of"] if fact.type == "int" else [])
        word = next((key for key in raw if key not in known), ", ".join(raw))
        raise FactError(
            f"{word!r} is no test of {fact.name}{did_you_mean(word, known)} "
            f"(a value, a list, or one of {', '.join(known)})"
        )

    def _other_fact(self, name: AnyValue, kind: str) -> str:
        other = self.facts.get(str(name))
        if other is None:
            raise FactError(f"there is no fact {name!r}{did_you_mean(str(name), self.facts)}")
        if other.type != kind:
            raise FactError(f"{name!r} is {other.domain}; it cannot be compared with this fact")
        if other.per_call:
            raise _only_compared(other)
        return other.name

    def _set(self, written: str) -> list[AnyValue]:
        """The values of a named set, as it is written ("$name"). Raises FactError."""
        name = written[1:]
        if name not in self.sets:
            raise FactError(f"there is no set {written!r}{did_you_mean(name, self.sets)}")
        return self.sets[name]

    def schemes(self, raw: list[dict[str, AnyValue]], path: KeyPath) -> Condition:
        """Read a kernel's list of quantization schemes."""
        schemes = []
        for i, item in enumerate(raw):
            here = (*path, i)
            when = self.condition(item.get("when"), (*here, "when"))
            keys: list[FactTest] = []
            for part in ("weight", "activation"):
                fact = self.facts[f"{part}_key"]
                test = self.test(fact, item[part], (*here, part))
                if test.facts():  # more is asked than the pair of keys
                    place = self.source.at((*here, part))
                    when = all_of(when, Clause(fact.name, test, reason_code(fact), place))
                    test = Anything()
                keys.append(test)
            schemes.append(Scheme(keys[0], keys[1], when))
        return Schemes(tuple(schemes), self.source.key_at(path))

    def value(self, fact: Fact, raw: AnyValue, path: KeyPath) -> FactValue:
        """Read one value of a fact."""
        try:
            return parse_value(fact, raw)
        except FactError as error:
            self.problem("bad-value", str(error), path)
            return None

    def value_of(self, fact: Fact, name: AnyValue, path: KeyPath) -> ValueOf:
        """Read the name of the fact whose value ``fact`` takes."""
        other = self.facts.get(str(name))
        if other is None or other.type != fact.type:
            alike = [one.name for one in self.facts.values() if one.type == fact.type]
            hint = did_you_mean(str(name), alike)
            self.problem("unknown-fact", f"there is no {fact.type} fact {name!r}{hint}", path)
        elif other.per_call:
            self.problem("bad-value", str(_only_compared(other)), path)
        return ValueOf(str(name))


def _only_compared(fact: Fact) -> FactError:
    return FactError(f'{fact.name} differs from call to call; only compare it (">=64")')
