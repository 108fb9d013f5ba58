"""Tests as a rule file writes them: plain values of YAML and JSON."""

from __future__ import annotations

from typing import Any

import yaml

from moe_rules.language.fact_tests import (
    COMPARISON,
    AnyTest,
    FactTest,
    IsSet,
    KeyPattern,
    MultipleOf,
    NotTest,
    OneOf,
    SameAs,
    SwitchIs,
)
from moe_rules.vocabulary.fact_values import Fact, FactValue, plain

_OPPOSITES = {">=": "<", "<": ">=", ">": "<=", "<=": ">"}


def written(test: FactTest) -> Any:
    """A test, as it stands to the right of a fact's name."""
    match test:
        case OneOf():
            if test.written.startswith("$"):
                return test.written
            words = sorted((word(value) for value in test.values), key=str)
            return words[0] if len(words) == 1 else words
        case SwitchIs():
            return test.wanted
        case IsSet():
            return "set" if test.wanted else "unset"
        case MultipleOf():
            return {"multiple_of": test.divisor}
        case SameAs():
            return {"same_as": test.other}
        case KeyPattern():
            return yaml.safe_load(test.written)
        case NotTest():
            return {"not": written(test.test)}
        case AnyTest():
            return [written(part) for part in test.tests]
    return test.words()


def opposite(fact: Fact, form: Any) -> Any:
    """The test that passes where the written one fails."""
    match form:
        case {"not": inner}:
            return inner
        case bool():
            return not form
        case "set":
            return "unset"
        case "unset":
            return "set"
        case str() if not fact.nullable and len(COMPARISON.findall(form)) == 1:
            match = COMPARISON.fullmatch(form)
            if match is not None:
                return f"{_OPPOSITES[match[1]]}{match[2]}"
    return {"not": form}


def word(value: FactValue | Any) -> Any:
    """A value, as a condition has it."""
    return "none" if value is None else plain(value)
