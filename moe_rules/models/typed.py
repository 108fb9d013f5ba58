"""Values of a checkpoint's files, read as the type that they must have.

A file may hold anything. What meets a table is read here first: one value as a :data:`Kind`, a
mapping as a shape (a pydantic model of the fields that are read). A value of another type is a
ConfigValueError with the path to it, and integers have 64 bits.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.types import Discriminator, Tag
from pydantic_core import PydanticCustomError

from moe_rules.models.errors import ConfigValueError

Integer: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Positive: TypeAlias = Annotated[int, Field(ge=1, lt=2**63)]


def json_type(value: object) -> str:
    """The tag by which a shape tells apart what a field may hold; no part of a path."""
    for python, tag in ((bool, "<flag>"), (str, "<text>"), (list, "<list>"), (Mapping, "<map>")):
        if isinstance(value, python):
            return tag
    return "<other>"


alternatives = partial(Discriminator, json_type, custom_error_type="alternatives")
"""Tells apart the tagged members of a union, with the ``custom_error_message`` it is given."""

Texts: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Tag("<list>")],
    alternatives(custom_error_message="text or a list of texts"),
]
FlagOrText: TypeAlias = Annotated[
    Annotated[bool, Tag("<flag>")] | Annotated[str, Tag("<text>")],
    alternatives(custom_error_message="true, false or text"),
]


def _index_set(value: str | list[int]) -> frozenset[int]:
    """Layer indices from a list of them or from "3,4,5"."""
    parts = [p for p in value.split(",") if p.strip()] if isinstance(value, str) else value
    try:
        return frozenset(map(int, parts))
    except ValueError:
        raise PydanticCustomError("indices", "a list of layer indices") from None


_Indices: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Integer], Tag("<list>")],
    alternatives(custom_error_message="a list of layer indices"),
    AfterValidator(_index_set),
]
_Entries: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Any], Tag("<list>")],
    alternatives(custom_error_message="text or a list, with an entry for each layer"),
]

# A model meets few of the kinds and shapes: each is built when it is first used.
STRICT = ConfigDict(strict=True, allow_inf_nan=False, defer_build=True)
Kind: TypeAlias = TypeAdapter[Any]
"""What one value may be."""

ANYTHING: Kind = TypeAdapter(Any)
FLAG: Kind = TypeAdapter(bool, config=STRICT)
INTEGER: Kind = TypeAdapter(Integer, config=STRICT)
POSITIVE: Kind = TypeAdapter(Positive, config=STRICT)
NUMBER: Kind = TypeAdapter(float, config=STRICT)
TEXT: Kind = TypeAdapter(str, config=STRICT)
INDICES: Kind = TypeAdapter(_Indices, config=STRICT)
ENTRIES: Kind = TypeAdapter(_Entries, config=STRICT)
BY_FACT_TYPE = {"bool": FLAG, "int": INTEGER, "float": NUMBER, "enum": TEXT, "string": TEXT}
"""The kind of a value that becomes a fact, by the fact's type in the vocabulary."""


class Shape(BaseModel):
    """The fields of a mapping that are read, with their types; others may be there."""

    model_config = {**STRICT, "extra": "ignore"}


def read(kind: Kind, value: Any, where: str) -> Any:
    """The value, if it is of a kind. Raises ConfigValueError; ``where`` is the path to it."""
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise _wrong_value(error, where) from None


def check(shape: type[Shape], value: object, where: str) -> None:
    """Raise ConfigValueError unless the fields of a mapping have the types of a shape."""
    try:
        shape.model_validate(value)
    except ValidationError as error:
        raise _wrong_value(error, where) from None


def below(where: str, *path: object) -> str:
    """The place of something inside a place: ``config.json: text_config.num_experts``."""
    inner = ".".join(str(part) for part in path)
    return f"{where}{'.' if ': ' in where else ': '}{inner}" if inner else where


_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "bool_type": "true or false",
    "string_type": "text",
    "float_type": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "missing": "given",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "too_short": "a list of {min_length}",
    "too_long": "a list of {max_length}",
}
"""What was expected, by pydantic's type of the error."""


def _wrong_value(error: ValidationError, where: str) -> ConfigValueError:
    first = error.errors(include_url=False)[0]
    words = _EXPECTED.get(first["type"])
    expected = first["msg"] if words is None else words.format(**first.get("ctx", {}))
    path = [part for part in first["loc"] if part != "[key]" and not _is_tag(part)]
    seen = "absent" if first["type"] == "missing" else shown(first["input"])
    return ConfigValueError(below(where, *path), expected, seen)


def _is_tag(part: object) -> bool:
    return isinstance(part, str) and part.startswith("<") and part.endswith(">")


class _Shown(reprlib.Repr):
    """Short, however deep, long or great a value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = 80

    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write an integer of more than 4300 digits."""
        size = value.bit_length()
        return f"<integer of {size} bits>" if size > 200 else repr(value)


shown = _Shown().repr
"""A value of a file in a message."""
