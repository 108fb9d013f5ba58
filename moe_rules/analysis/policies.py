"""Policies: what has to hold of all deployments, in the language of conditions.

A file of policies is ``policies: [...]``; each says of which deployments (``on``, ``when``) which
outcome comes out ``always`` or ``never``, or that it is the same as with other values of some facts
(``same_as``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import Field, WithJsonSchema, model_validator

from moe_rules.files.problems import Location, Problem, RuleFileError
from moe_rules.files.validate import validate
from moe_rules.files.yaml_source import YamlSource
from moe_rules.language.conditions import ALWAYS, Condition
from moe_rules.language.examples import RawFacts
from moe_rules.language.files import (
    OneOrMore,
    RawCondition,
    Table,
)
from moe_rules.language.parse import Parser
from moe_rules.language.rules import ErrorKind
from moe_rules.language.words import Words
from moe_rules.vocabulary.fact_values import (
    Fact,
    FactError,
    FactValue,
    did_you_mean,
    parse_value,
)
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.table_names import ORACLES, PLATFORMS

RawOutcome = Annotated[dict[str, Any], WithJsonSchema({"x-definition": "Outcome"})]

OUTCOME = {
    fact.name: fact
    for fact in (
        Fact("backend", "derived", "string", "The backend; none: an error.", nullable=True),
        Fact("kernel", "derived", "string", "The class of the kernel, if any.", nullable=True),
        Fact("error", "derived", "enum", "The kind of error.", get_args(ErrorKind), nullable=True),
        Fact(
            "how",
            "derived",
            "enum",
            "How it was reached.",
            ("auto", "requested", "switch", "shortcut", "fallback"),
        ),
    )
}
"""What a policy may say of an outcome, as facts."""


class On(Table):
    """Platforms and oracles; all of them where none is named."""

    platform: OneOrMore = Field(default_factory=list, description="Kinds of devices.")
    oracle: OneOrMore = Field(default_factory=list, description="Oracles.")


class PolicyTable(Table):
    """One policy: exactly one of always, never and same_as."""

    name: str = Field(min_length=1, description="What it asserts.")
    because: str | None = Field(None, description="Why it has to hold.")
    on: On = Field(default_factory=On)
    when: RawCondition | None = Field(None, description="Of which deployments; of all if absent.")
    always: RawOutcome | None = Field(None, description="What comes out for each of them.")
    never: RawOutcome | None = Field(None, description="What comes out for none of them.")
    same_as: RawFacts | None = Field(
        None, description="The same comes out where these facts have these values instead."
    )

    @model_validator(mode="after")
    def _one_assertion(self) -> PolicyTable:
        if sum(said is not None for said in (self.always, self.never, self.same_as)) != 1:
            raise ValueError("a policy says exactly one of: always, never, same_as")
        return self


class PoliciesFile(Table):
    """A file of policies."""

    policies: list[PolicyTable] = Field(min_length=1)


@dataclass(frozen=True)
class Policy:
    """One policy. ``never`` is the opposite of ``always``; ``same_as`` excludes both."""

    name: str
    because: str | None
    platforms: tuple[str, ...]
    oracles: tuple[str, ...]
    when: Condition
    outcome: Condition | None
    never: bool
    same_as: Mapping[str, FactValue]
    location: Location


def policies_of(source: YamlSource, words: Words) -> list[Policy]:
    """The policies of a file, whose conditions are in some words.

    Raises RuleFileError with everything that is wrong with it.
    """
    file = validate(PoliciesFile, source)
    facts = Parser(source, words.facts, words.sets)
    outcomes = Parser(source, OUTCOME, {})
    problems: list[Problem] = []
    found = []
    for number, table in enumerate(file.policies):
        path = ("policies", number)
        key = "always" if table.always is not None else "never"
        outcome = table.always if table.always is not None else table.never
        same_as: dict[str, FactValue] = {}
        for name, raw in (table.same_as or {}).items():
            place = source.key_at((*path, "same_as", name))
            try:
                same_as[name] = _value(name, raw)
            except FactError as error:
                problems.append(Problem("bad-value", str(error), place))
        for kind, names, known in (
            ("platform", table.on.platform, PLATFORMS),
            ("oracle", table.on.oracle, ORACLES),
        ):
            problems += [
                Problem(
                    f"unknown-{kind}",
                    f"there is no {kind} {name!r}{did_you_mean(name, known)}",
                    source.at((*path, "on", kind)),
                )
                for name in names
                if name not in known
            ]
        found.append(
            Policy(
                name=table.name,
                because=table.because,
                platforms=tuple(table.on.platform or PLATFORMS),
                oracles=tuple(table.on.oracle or ORACLES),
                when=ALWAYS if table.when is None else facts.condition(table.when, (*path, "when")),
                outcome=None if outcome is None else outcomes.condition(outcome, (*path, key)),
                never=table.never is not None,
                same_as=same_as,
                location=source.at((*path, "name")),
            )
        )
    problems += [*facts.problems, *outcomes.problems]
    if problems:
        raise RuleFileError(problems)
    return found


def _value(name: str, raw: Any) -> FactValue:
    if name not in FACTS:
        raise FactError(f"there is no fact {name!r} to state{did_you_mean(name, FACTS)}")
    return parse_value(FACTS[name], raw)
