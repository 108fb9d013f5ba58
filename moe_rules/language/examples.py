"""Files of examples beside rules: facts, and the outcome that is expected of them.

A file whose name ends in ``.test.yaml`` holds examples and no rules. What is said above
``examples`` holds for each of them that does not say otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator

from moe_rules.files.problems import KeyPath, Location, Problem, RuleFileError
from moe_rules.files.validate import validate
from moe_rules.files.yaml_source import YamlSource
from moe_rules.language.files import Table
from moe_rules.language.rules import ErrorKind
from moe_rules.vocabulary.fact_values import FactError, FactValue, did_you_mean, parse_value
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.record import Record
from moe_rules.vocabulary.table_names import OracleName

RawFacts = Annotated[dict[str, Any], WithJsonSchema({"x-definition": "Facts"})]
NONE = "none"
"""How a file says that there is no backend or no kernel."""


class Expected(Table):
    """What has to come out; what is not said may be anything."""

    backend: str | None = Field(None, description='The backend, or "none".')
    kernel: str | None = Field(None, description='The class of the kernel, or "none".')
    how: Literal["auto", "requested", "switch", "shortcut", "fallback"] | None = Field(
        None, description="How it was reached."
    )
    error: ErrorKind | None = Field(None, description="The kind of error; absent: there is none.")
    order: list[str] | None = Field(None, description="The order of backends, all of it.")

    @model_validator(mode="after")
    def _something(self) -> Expected:
        if not self.model_fields_set:
            raise ValueError("expect says nothing")
        return self


class Defaults(Table):
    """What examples have in common."""

    machine: str | None = Field(None, description="A named machine (moe-rules list machines).")
    software: str | None = Field(None, description="A preset of software: full, bare.")
    oracle: OracleName | None = Field(None, description="The oracle that is asked.")
    facts: RawFacts = Field(
        default_factory=dict,
        description="Facts of the layer and its deployment, and those of the machine that differ.",
    )


class ExampleTable(Defaults):
    """One example."""

    name: str = Field(min_length=1, description="What it shows.")
    expect: Expected


class ExamplesFile(Defaults):
    """A file of examples."""

    examples: list[ExampleTable] = Field(min_length=1)


class Example(Record):
    """One example, complete. ``source`` has the place of everything at ``path`` in its file."""

    name: str
    machine: str | None
    software: str | None
    oracle: str
    facts: Mapping[str, FactValue]
    expect: Expected
    source: YamlSource
    path: KeyPath

    def at(self, *inside: str) -> Location:
        """The place of a part of the example, or of what holds for all of its file."""
        paths = ((*self.path, *inside), inside, self.path)
        return self.source.at(next(path for path in paths if path in self.source.places))


def examples_of(source: YamlSource) -> list[Example]:
    """The examples of a file. Raises RuleFileError with everything that is wrong with it."""
    file = validate(ExamplesFile, source)
    problems = list(_problems(file, source))
    if problems:
        raise RuleFileError(problems)
    shared = _values(file.facts)
    return [
        Example(
            table.name,
            table.machine or file.machine,
            table.software or file.software,
            str(table.oracle or file.oracle),
            {**shared, **_values(table.facts)},
            table.expect,
            source,
            ("examples", i),
        )
        for i, table in enumerate(file.examples)
    ]


def _values(raw: Mapping[str, Any]) -> dict[str, FactValue]:
    return {name: parse_value(FACTS[name], value) for name, value in raw.items()}


def _problems(file: ExamplesFile, source: YamlSource) -> Iterator[Problem]:
    names: list[str] = []
    for path, table in [((), file), *((("examples", i), t) for i, t in enumerate(file.examples))]:
        for name, value in table.facts.items():
            place = (*path, "facts", name)
            if name not in FACTS:
                message = f"there is no fact {name!r} to state{did_you_mean(name, FACTS)}"
                yield Problem("unknown-fact", message, source.key_at(place))
                continue
            try:
                parse_value(FACTS[name], value)
            except FactError as error:
                yield Problem("bad-value", str(error), source.at(place))
        if not isinstance(table, ExampleTable):
            continue
        if table.name in names:
            message = f"{table.name!r} is the name of another example already"
            yield Problem("declared-twice", message, source.at((*path, "name")))
        names.append(table.name)
        if table.oracle is None and file.oracle is None:
            yield Problem("missing-key", "no oracle is given", source.at(path))
