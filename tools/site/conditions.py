"""Conditions of rules in words: "``num_experts`` is at most 992", each with its line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

from moe_rules.language import fact_tests as tests
from moe_rules.language.conditions import ALWAYS, All, Any, Clause, Condition, Implied, Not
from moe_rules.language.rules import Assumed, ValueOf
from moe_rules.language.schemes import Schemes
from moe_rules.vocabulary.fact_values import FactValue, in_words
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.switches import SWITCHES
from tools.site.markdown import anchor, code, link, place

_COMPARED = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
INDENT = "    "


def page_of_fact(name: str) -> str:
    """The page that explains a fact."""
    if name in SWITCHES:
        return "/switches.md"
    return f"/facts/{FACTS[name].group if name in FACTS else 'derived'}.md"


def fact(name: str) -> str:
    """A fact's name, linked to what explains it."""
    return link(code(name), f"{page_of_fact(name)}#{anchor(name)}")


@singledispatch
def wanted(test: tests.FactTest) -> str:
    """What a test asks of a value, to stand behind "is" or "is not"."""
    return code(test.words())


@wanted.register
def _(test: tests.OneOf) -> str:
    if test.written.startswith("["):
        words = [code(word) for word in test.written.strip("[]").split(", ")]
        return f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    return code(test.written)


@wanted.register
def _(test: tests.SwitchIs) -> str:
    return "on" if test.wanted else "off"


@wanted.register
def _(test: tests.IsSet) -> str:
    return "set" if test.wanted else "unset"


@wanted.register
def _(test: tests.Compare) -> str:
    return " and ".join(f"{_COMPARED[sign]} {in_words(bound)}" for sign, bound in test.bounds)


@wanted.register
def _(test: tests.MultipleOf) -> str:
    of = test.divisor
    return f"a multiple of {fact(of) if isinstance(of, str) else of}"


@wanted.register
def _(test: tests.SameAs) -> str:
    return f"the same as {fact(test.other)}"


@wanted.register
def _(test: tests.AnyTest) -> str:
    return " or ".join(wanted(one) for one in test.tests)


@wanted.register
def _(test: tests.NotTest) -> str:
    return f"not {wanted(test.test)}"


@wanted.register
def _(test: tests.Anything) -> str:
    return "anything"


def parts(condition: Condition) -> tuple[Condition, ...]:
    """What a condition asks, one by one; all of it has to hold."""
    if isinstance(condition, All):
        return condition.parts
    return () if condition is ALWAYS else (condition,)


def lacking(condition: Condition) -> list[Implied]:
    """What a kernel asks for want of features."""
    return [
        part
        for part in parts(condition)
        if isinstance(part, Implied) and not isinstance(part.test, tests.Anything)
    ]


def sentence(condition: Condition) -> str:
    """A condition in one line; "always" for one that asks nothing."""
    match condition:
        case Clause():
            return f"{fact(condition.fact)} is {wanted(condition.test)}"
        case Any():
            return "(" + " or ".join(sentence(part) for part in condition.parts) + ")"
        case Not():
            return f"not ({sentence(condition.part)})"
        case Schemes():
            return "one of its schemes"
        case _:
            return " and ".join(sentence(part) for part in parts(condition)) or "always"


def listed(condition: Condition, depth: int = 0) -> str:
    """A condition as a list, each clause with its line; schemes and features are told elsewhere."""
    return "\n".join(_lines(condition, depth))


def _lines(condition: Condition, depth: int) -> Iterator[str]:
    for part in parts(condition):
        match part:
            case Implied() | Schemes():
                pass
            case Clause():
                yield f"{INDENT * depth}- {sentence(part)} ({place(part.location)})"
            case Any():
                yield f"{INDENT * depth}- one of these holds ({place(part.location)}):"
                for alternative in part.parts:
                    yield f"{INDENT * (depth + 1)}- {sentence(alternative)}"
            case Not():
                yield f"{INDENT * depth}- {sentence(part)} ({place(part.location)})"


def assumed(values: Assumed) -> str:
    """The facts that a rule fixes."""
    return ", ".join(f"{fact(name)} = {value_in_words(value)}" for name, value in values)


def value_in_words(value: FactValue | ValueOf) -> str:
    """A value, or whose it is."""
    return fact(value.fact) if isinstance(value, ValueOf) else code(in_words(value))
