"""Reads a quantization key by its parts: ``{dtype: fp8_e4m3, scale: {rows: 1}, scale2: none}``.

A part that is not given may be anything, so one that cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from moe_rules.language.fact_tests import (
    COMPARISON,
    Compare,
    KeyPattern,
    OneOf,
    ScalePattern,
    comparison,
)
from moe_rules.vocabulary.fact_values import FactError, did_you_mean, in_words, parse_number

_EXTENTS = ("rows", "columns")


def key_pattern(raw: Mapping[str, Any], named: Callable[[str], list[Any]]) -> KeyPattern:
    """The pattern of a key; ``named`` has the values of a set ("$name"). Raises FactError."""
    _only(raw, ("dtype", "scale", "scale2", "symmetric"), "a quantization key")
    return KeyPattern(
        written=_written(raw),
        dtypes=frozenset(_dtypes(raw["dtype"], named)) if "dtype" in raw else None,
        scale=_scale(raw["scale"]) if "scale" in raw else None,
        scale2=_second_scale(raw["scale2"]) if "scale2" in raw else None,
        symmetric=_flag(raw, "symmetric"),
    )


def _only(raw: Mapping[str, Any], known: Collection[str], what: str) -> None:
    for word in raw:
        if word not in known:
            raise FactError(
                f"{word!r} is no part of {what}{did_you_mean(str(word), known)} "
                f"(known: {', '.join(known)})"
            )


def _dtypes(raw: Any, named: Callable[[str], list[Any]]) -> list[str]:
    words: list[str] = []
    for word in raw if isinstance(raw, list) else [raw]:
        is_set = isinstance(word, str) and word.startswith("$")
        words += map(_dtype, named(word) if is_set else [word])
    return words


def _dtype(raw: Any) -> str:
    if not isinstance(raw, str):
        raise FactError(f"dtype is the name of one, not {in_words(raw)}")
    return raw


def _flag(raw: Mapping[str, Any], name: str) -> bool | None:
    value = raw.get(name)
    if name in raw and not isinstance(value, bool):
        raise FactError(f"{name} is true or false, not {in_words(value)}")
    return value


def _second_scale(raw: Any) -> ScalePattern | Literal[False]:
    return False if raw in (None, "none") else _scale(raw)


def _scale(raw: Any) -> ScalePattern:
    if not isinstance(raw, Mapping):
        raise FactError(
            f"a scale is a mapping of dtype, static, rows, columns (scale2 also none), "
            f"not {in_words(raw)}"
        )
    _only(raw, ("dtype", "static", *_EXTENTS), "a scale")
    return ScalePattern(
        dtype=_dtype(raw["dtype"]) if "dtype" in raw else None,
        static=_flag(raw, "static"),
        **{name: _extent(name, raw[name]) for name in _EXTENTS if name in raw},
    )


def _extent(name: str, raw: Any) -> OneOf | Compare:
    """How many rows, or columns, one scale covers; -1 is all."""
    if type(raw) is int:
        return OneOf(frozenset([raw]), str(raw))
    if not isinstance(raw, str):
        raise FactError(f"{name} is a whole number or a comparison, not {in_words(raw)}")
    return comparison(raw, _whole)


def _whole(text: str) -> int:
    number = parse_number(text)
    if not isinstance(number, int):
        raise FactError(f"{text!r} is not a whole number")
    return number


def _written(raw: Any) -> str:
    """A pattern as a rule file has it in one line."""
    if isinstance(raw, Mapping):
        return "{" + ", ".join(f"{key}: {_written(value)}" for key, value in raw.items()) + "}"
    if isinstance(raw, list):
        return "[" + ", ".join(map(_written, raw)) + "]"
    if isinstance(raw, str) and COMPARISON.match(raw):
        return f'"{raw}"'
    return in_words(raw)
