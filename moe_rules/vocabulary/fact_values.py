"""What a fact is, and its values: from YAML, JSON or text, and back in words."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey
from moe_rules.vocabulary.readings import Reading, Unreadable
from moe_rules.vocabulary.record import Record

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_VERSION = re.compile(r"([0-9]{1,9})\.([0-9])")

FactValue = bool | int | float | str | tuple[int, int] | QuantKey | Unreadable | None
FactType = Literal["bool", "switch", "int", "float", "enum", "string", "version", "quant_key"]
Group = Literal["platform", "software", "layer", "parallel", "quantization", "request", "derived"]


class Fact(Record):
    """One thing a rule may test.

    ``values`` are the words a rule may use for it (enum), or known examples (string: any value
    may occur). ``nullable`` facts may be ``none``. A ``switch`` is an environment variable that
    is on, off or unset; ``default`` is what unset means. ``reading`` is how the reference makes the
    value of an environment variable's text. A ``per_call`` fact differs from call to call of a
    selected kernel: rules may only compare it, and a decision lists the ranges. ``least`` is the
    smallest integer that the fact may be.
    """

    name: str
    group: Group
    type: FactType
    meaning: str
    values: tuple[str, ...] = ()
    nullable: bool = False
    default: bool | None = None
    per_call: bool = False
    reading: Reading | None = None
    least: int | None = None

    @property
    def domain(self) -> str:
        """The possible values in words."""
        match self.type:
            case "bool":
                text = "true, false"
            case "switch":
                unset = "true" if self.default else "false"
                text = f"true, false, set, unset (unset means {unset})"
            case "int":
                text = "an integer" if self.least is None else f"an integer from {self.least} on"
            case "float":
                text = "a number"
            case "version":
                text = 'a version, as "9.0"'
            case "quant_key":
                text = "a quantization key"
            case "enum":
                text = ", ".join(self.values)
            case "string":
                text = f"text, as {', '.join(self.values)}" if self.values else "text"
        return f"{text}, none" if self.nullable else text


class FactError(ValueError):
    """A fact's name or value is not one of the vocabulary's."""


class SwitchError(FactError):
    """A rule asks for a switch that is set to text which the reference cannot read."""


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that looks most like ``name``, or None if none is close."""
    name, names = str(name), list(known)
    folded = {candidate.lower(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)
    # Of equally close names, one with the same letters is a slip of the fingers.
    matches.sort(key=lambda match: sorted(match) != sorted(name.lower()))
    return folded[matches[0]] if matches else None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or an empty string where nothing is close."""
    match = nearest(name, known)
    return f"; did you mean {match!r}?" if match else ""


def parse_version(text: object) -> tuple[int, int]:
    """A version as (major, minor) from "9.0", 9.0 or [9, 0]. Raises FactError.

    The minor one is a single digit, as in all capabilities: targets are named by both, as sm_103.
    """
    if isinstance(text, tuple | list) and len(text) == 2 and all(type(n) is int for n in text):
        text = f"{text[0]}.{text[1]}"
    match = _VERSION.fullmatch(str(text))
    if match is None:
        raise FactError(f'{text!r} is not a version; write it as "9.0", with one digit at the end')
    return (int(match[1]), int(match[2]))


def parse_number(text: str) -> int | float:
    """A number from its text. Raises FactError for what is none, or not finite."""
    whole = integer(text)
    number = _finite(text) if whole is None else whole
    if number is None:
        raise FactError(f"{text!r} is not a number")
    return number


_PLAIN = {"bool": bool, "int": int, "enum": str}
"""The types of values that are in the domain where their type, words and least say so."""


def parse_value(fact: Fact, raw: object) -> FactValue:
    """The typed value of ``fact`` from its YAML, JSON or command-line form.

    Raises FactError with the domain when ``raw`` is not in it.
    """
    # What nearly every value is, first.
    if type(raw) is _PLAIN.get(fact.type) and (
        raw in fact.values if fact.values else fact.least is None or raw >= fact.least  # type: ignore[operator]
    ):
        return raw  # type: ignore[return-value]
    if raw is None or (isinstance(raw, str) and raw.lower() in ("none", "null", "unset")):
        if fact.nullable or fact.type == "switch":
            return None
        raise FactError(f"{fact.name} cannot be none; it is {fact.domain}")
    match fact.type:
        case "bool" | "switch":
            if isinstance(raw, bool):
                return raw
            words = {"true": True, "1": True, "false": False, "0": False}
            if str(raw).lower() in words:
                return words[str(raw).lower()]
        case "int":
            value = integer(raw)
            if value is not None and (fact.least is None or value >= fact.least):
                return value
        case "float":
            number = _finite(raw)
            if number is not None:
                return number
        case "version":
            return parse_version(raw)
        case "string":
            if isinstance(raw, str):
                return raw
        case "enum":
            if isinstance(raw, str) and raw in fact.values:
                return raw
            hint = did_you_mean(str(raw), fact.values)
            raise FactError(f"{fact.name} cannot be {raw!r}{hint} (one of {fact.domain})")
        case "quant_key":
            return parse_quant_key(raw)
    raise FactError(f"{fact.name} cannot be {raw!r}; it is {fact.domain}")


_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "switch": (bool,),
    "int": (int,),
    "float": (int, float),
    "version": (str, tuple, list),
    "quant_key": (QuantKey, Mapping, str),
}
"""What a value has to be where values have types; text for all other facts."""


def typed_value(fact: Fact, raw: object) -> FactValue:
    """As :func:`parse_value`, of a value that has a type already: text is no number, 1 no bool.

    A scalar of numpy or torch is what it holds. A number is no version: 12.1 could have been 12.10.
    """
    types = _TYPES.get(fact.type, (str,))
    if not isinstance(raw, types) and hasattr(raw, "item") and getattr(raw, "ndim", None) == 0:
        raw = raw.item()
    if raw is not None and not isinstance(raw, types):
        raise FactError(f"{fact.name} cannot be {raw!r}; it is {fact.domain}")
    return parse_value(fact, raw)


def integer(raw: object) -> int | None:
    """The whole number that a value or its text is, None for any other."""
    if type(raw) is int:
        return raw
    return int(raw) if isinstance(raw, str) and _INTEGER.fullmatch(raw) else None


def _finite(raw: object) -> float | None:
    if isinstance(raw, bool) or (isinstance(raw, str) and "_" in raw):
        return None
    try:
        number = float(raw)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def parse_quant_key(raw: object) -> QuantKey:
    """A quantization key from its name or its plain form. Raises FactError."""
    if isinstance(raw, QuantKey):
        return raw
    if isinstance(raw, Mapping):
        try:
            return QuantKey.from_dict(dict(raw))
        except (KeyError, TypeError, ValueError) as error:
            raise FactError(f"malformed quantization key {dict(raw)!r}: {error}") from None
    if not isinstance(raw, str) or raw not in NAMED_KEYS:
        raise FactError(f"unknown quantization key {raw!r}{did_you_mean(raw, NAMED_KEYS)}")
    return NAMED_KEYS[raw]


def plain(value: FactValue) -> Any:
    """The YAML and JSON form of a fact's value."""
    if isinstance(value, tuple):
        return f"{value[0]}.{value[1]}"
    if isinstance(value, QuantKey):
        return value.name or value.to_dict()
    if isinstance(value, Unreadable):
        return value.text
    return value


def in_words(value: object) -> str:
    """A fact's value as a person writes it in a rule file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"{value[0]}.{value[1]}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "''"
