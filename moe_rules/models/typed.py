"""Values of a checkpoint's files, read as the type that they must have.

A file may hold anything. What meets a table is read here first, as a :data:`Kind`: one value, a
list, or a mapping of which some fields are read (a :class:`Shape`). A value of another type is a
ConfigValueError with the path to it, and integers have 64 bits.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from moe_rules.models.errors import ConfigValueError

Kind: TypeAlias = Callable[[Any], Any]
"""What a value may be: gives the value as it is read. Raises :class:`Misfit`."""

ABSENT: Any = object()
"""Stands for a value that is not there."""
INTEGERS = range(-(2**63), 2**63)


class Misfit(ValueError):  # noqa: N818 (no error yet: the place of the value is not known)
    """A value is not of a kind; ``path`` leads to it, which whoever looks inside fills in."""

    def __init__(self, expected: str, value: object, path: tuple[object, ...] = ()) -> None:
        super().__init__(expected)
        self.expected = expected
        self.seen = "absent" if value is ABSENT else shown(value)
        self.path = path


def read(kind: Kind, value: Any, where: str) -> Any:
    """The value, if it is of a kind. Raises ConfigValueError; ``where`` is the path to it."""
    try:
        return kind(value)
    except Misfit as misfit:
        place = below(where, *misfit.path)
        raise ConfigValueError(place, misfit.expected, misfit.seen) from None


def below(where: str, *path: object) -> str:
    """The place of something inside a place: ``config.json: text_config.num_experts``."""
    inner = ".".join(str(part) for part in path)
    return f"{where}{'.' if ': ' in where else ': '}{inner}" if inner else where


# One value ----------------------------------------------------------------------------------------


def anything(value: Any) -> Any:
    """Whatever it is."""
    return value


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Misfit("true or false", value)
    return value


def integer(value: Any) -> int:
    """An integer of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise Misfit("an integer", value)
    if value < INTEGERS.start:
        raise Misfit(f"at least {INTEGERS.start}", value)
    if value >= INTEGERS.stop:
        raise Misfit(f"less than {INTEGERS.stop}", value)
    return value


def whole(value: Any) -> int:
    """An integer, or a float that is one."""
    return integer(int(value) if isinstance(value, float) and value.is_integer() else value)


def positive(value: Any) -> int:
    """An integer from 1 up."""
    if integer(value) < 1:
        raise Misfit("at least 1", value)
    return int(value)


def number(value: Any) -> float:
    """A finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Misfit("a number", value)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise Misfit("a finite number", value)
    return found


def text(value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise Misfit("text", value)
    return value


_WORDS_OF_TRUTH = {
    **dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "off", "f", "false", "n", "no"), False),
}


def lax_flag(value: Any) -> bool:
    """True or false as pydantic takes it: as 1 and 0, and as text, too."""
    if isinstance(value, str):
        return flag(_WORDS_OF_TRUTH.get(value.lower(), value))
    return bool(value) if value in (0, 1) else flag(value)


_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")


def lax_integer(value: Any) -> int:
    """An integer as pydantic takes it: as a whole float, a flag and text, too."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return integer(int(value.partition(".")[0]))
    return whole(value)


def word(*words: str) -> Kind:
    """One of some words, in whatever case it is written; as they are written here."""

    def read_word(value: Any) -> str:
        given = text(value).lower()
        if given not in words:
            raise Misfit(" or ".join(words), value)
        return given

    return read_word


# Several ------------------------------------------------------------------------------------------


def optional(kind: Kind) -> Kind:
    """Of a kind, or null."""
    return lambda value: None if value is None else kind(value)


def unless_false(kind: Kind) -> Kind:
    """Of a kind, or null for what counts as false, be it empty."""
    return lambda value: kind(value) if value else None


def listed(kind: Kind, count: int | None = None) -> Kind:
    """A list, of ``count`` values if that is given."""

    def read_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Misfit("a list", value)
        found = [_inside(kind, one, index) for index, one in enumerate(value)]
        if count is not None and len(found) != count:
            raise Misfit(f"a list of {count}", value)
        return found

    return read_list


def mapped(kind: Kind, key: Kind = text) -> Kind:
    """A mapping from keys of one kind to values of another."""

    def read_mapping(value: Any) -> dict[Any, Any]:
        entries = _mapping(value).items()
        return {_inside(key, name, name): _inside(kind, one, name) for name, one in entries}

    return read_mapping


def either(expected: str, *kinds: tuple[type, Kind]) -> Kind:
    """Of the kind that belongs to the value's type; ``expected`` says which there are."""

    def read_one(value: Any) -> Any:
        for python, kind in kinds:
            if isinstance(value, python):
                return kind(value)
        raise Misfit(expected, value)

    return read_one


class Shape:
    """A mapping of which these fields are read, each of its kind; others may be there.

    A field whose name is in ``required`` must be there. ``base`` has further fields.
    """

    def __init__(
        self, base: Shape | None = None, /, required: tuple[str, ...] = (), **fields: Kind
    ) -> None:
        self.fields: Mapping[str, Kind] = {**(base.fields if base else {}), **fields}
        self.required = required

    def __call__(self, value: Any) -> Mapping[str, Any]:
        """The mapping with these fields as they are read. Raises :class:`Misfit`."""
        given = _mapping(value)
        found = {}
        for name, kind in self.fields.items():
            if name in given:
                found[name] = _inside(kind, given[name], name)
            elif name in self.required:
                raise Misfit("given", ABSENT, (name,))
        return {**given, **found}


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Misfit("a mapping", value)
    return value


def _inside(kind: Kind, value: Any, key: object) -> Any:
    try:
        return kind(value)
    except Misfit as misfit:
        misfit.path = (key, *misfit.path)
        raise


def _index_set(value: str | list[int]) -> frozenset[int]:
    """Layer indices from a list of them or from "3,4,5"."""
    parts = [p for p in value.split(",") if p.strip()] if isinstance(value, str) else value
    try:
        return frozenset(map(int, parts))
    except ValueError:
        raise Misfit("a list of layer indices", value) from None


indices = either(
    "a list of layer indices",
    (str, _index_set),
    (list, lambda value: _index_set(listed(integer)(value))),
)
entries = either("text or a list, with an entry for each layer", (str, text), (list, anything))
texts = either("text or a list of texts", (str, text), (list, listed(text)))

BY_FACT_TYPE = {"bool": flag, "int": integer, "float": number, "enum": text, "string": text}
"""The kind of a value that becomes a fact, by the fact's type in the vocabulary."""


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
