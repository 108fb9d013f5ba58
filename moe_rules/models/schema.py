"""What the tables under ``rules/models`` are made of (pydantic): conditions, sources, refusals.

Each file has its closed shape in a module of its own, from which a schema is made
(``architectures_schema``, ``quantization_schema``, ``registry_schema``, ``mistral_schema``). How
conditions and sources are read is in :mod:`moe_rules.models.conditions` and
:mod:`moe_rules.models.sources`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    create_model,
    field_validator,
    model_validator,
)

from moe_rules.files.problems import KeyPath
from moe_rules.files.validate import wrong_at
from moe_rules.models.names import SKIP_RULES
from moe_rules.models.suggest import unknown_name

Scalar = bool | int | float | str | None
Stage = Literal["engine_config", "model", "quant_method"]


class Closed(BaseModel):
    """A mapping in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True)


class TableFile(Closed):
    """A file of tables.

    ``withdrawn``: in a release, entries that it does not have: why, by section and name.
    """

    withdrawn: dict[str, dict[str, str]] = {}


def part_of(model: type[TableFile]) -> type[TableFile]:
    """A file of these tables that need not have all sections, as a release's need not."""
    sections: dict[str, Any] = {
        name: (field.annotation, Field(None, alias=field.alias))
        for name, field in model.model_fields.items()
    }
    return create_model(model.__name__, __base__=TableFile, __doc__=model.__doc__, **sections)


class Operators(Closed):
    """One or several operators that a value must satisfy."""

    not_: Scalar | list[Scalar] = Field(default=None, alias="not")
    at_least: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    contains: str | None = None
    starts_with: str | None = None


Conditions = dict[str, Scalar | list[Scalar | list[Scalar]] | Operators]


class LiteralText(Closed):
    """A text that is the value itself, not the name of a field."""

    literal: str


class FieldSource(Closed):
    """A configuration field with a default where it is absent, or one entry for each layer.

    ``largest`` is for a list of mappings: the largest number that they hold under that name.
    ``where``: a value for which this does not hold counts as null (0 that means none).
    """

    field: str
    default: Scalar = None
    per_layer: bool = False
    one_of: list[Scalar] = []
    largest: str | None = None
    where: Scalar | list[Scalar] | Operators = None


class Product(Closed):
    """The product of two sources."""

    multiply: Annotated[list[Scalar | FieldSource], Field(min_length=2, max_length=2)]


Simple = Scalar | LiteralText | FieldSource | Product


class Choice(Closed):
    """One source or another, by whether a third is neither null, false nor 0."""

    if_: Simple = Field(alias="if")
    then: Simple
    else_: Simple = Field(alias="else")


class IndexBelow(Closed):
    """Whether the decoder layer's index is below a number."""

    index_below: Simple


Single = Simple | Choice | IndexBelow


class Case(Closed):
    """A source that counts when its conditions hold."""

    when: Conditions = {}
    is_: Single = Field(alias="is")


Source = Single | list[Case | Single]


class Refusal(Closed):
    """A checkpoint that is refused where ``when`` holds, and why.

    If ``value`` is given, it is only refused unless that is one of ``unless``.
    """

    when: Conditions = {}
    value: Source = None
    unless: list[Scalar] = []
    because: str
    stage: Stage = "model"


class LoadCheck(Closed):
    """What vLLM refuses once it has selected a backend, when it creates or loads the weights.

    It does where ``when`` holds, ``of`` is no multiple of ``multiple_of`` (if they are given) and
    the selected backend is such a one.
    """

    when: Conditions = {}
    of: str | None = None
    multiple_of: int | str | None = None
    backend: str | list[str] | Operators | None = None
    because: str

    @model_validator(mode="after")
    def _both_or_neither(self) -> LoadCheck:
        if (self.of is None) != (self.multiple_of is None):
            raise ValueError("of and multiple_of go together")
        return self


class Skip(Closed):
    """Which layers are left unquantized, by the first of these fields that is not empty.

    ModelOpt's is the first that is there.
    """

    fields: list[str]
    rule: str

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, rule: str) -> str:
        return known_name("rule", rule, SKIP_RULES)


def named(path: KeyPath, name: str, names: Collection[str]) -> None:
    """Raise what says where in a file a name stands that is none of these, with the nearest one."""
    if name not in names:
        raise wrong_at(path, unknown_name(f"name in {path[-1]}", name, names))


def known_name(what: str, name: str, names: Any) -> str:
    """The name, if it is one of these. Raises ValueError with the nearest one."""
    if name not in names:
        raise ValueError(unknown_name(what, name, names))
    return name
