"""How the reference reads its environment switches: from the text of a variable to a value.

The reading of a switch stands beside its fact in :mod:`moe_rules.vocabulary.switches`. What the
reference makes of odd text is recorded in ``tests/vocabulary/switch_readings.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from moe_rules.vocabulary.record import Record

Rule = Literal["integer", "true_words", "lower_case"]
When = Literal["each call", "first call", "import"]

_RULES: dict[Rule, tuple[Callable[[str], bool | str], str]] = {
    "integer": (lambda text: bool(int(text)), "an integer: 0 is off, any other is on"),
    "true_words": (
        lambda text: text.lower() in ("true", "1"),
        '"true" or "1" in any case is on, any other text is off',
    ),
    "lower_case": (str.lower, "text in any case"),
}


class Unreadable(Record):
    """The text of a switch on which the reference fails as soon as it reads it.

    It stands in place of the switch's value, but is none: no test is asked about it.
    """

    text: str
    error: str

    def __str__(self) -> str:
        return f"{self.text!r} (unreadable)"


class Reading(Record):
    """How the reference reads one switch.

    ``rule`` makes the value of the text: "integer" is Python's ``int``, 0 is off; "true_words" is
    on for "true" and "1" in any case and never fails; "lower_case" is the text itself. ``source``
    is the reference's line that does so, ``read`` when and where its value is asked for.
    """

    rule: Rule
    source: str
    read: tuple[tuple[When, str], ...]

    @property
    def at_import(self) -> bool:
        """The reference reads it when it is imported, and a later change comes too late."""
        return any(when == "import" for when, _ in self.read)

    @property
    def valid(self) -> str:
        """What the text may be, in words."""
        return _RULES[self.rule][1]

    def value(self, name: str, text: str) -> bool | str | Unreadable:
        """What the reference makes of ``text`` in the variable ``name``."""
        text = variable_text(name, text)
        try:
            return _RULES[self.rule][0](text)
        except ValueError:
            error = (
                f"the variable {name}={text!r} cannot be read; it is {self.valid}, or not set "
                f"({self.source})"
            )
            return Unreadable(text, error)


def variable_text(name: str, text: object) -> str:
    """What a variable of an environment has, which is text. Raises TypeError for anything else."""
    if not isinstance(text, str):
        raise TypeError(f"variables have text, as in os.environ, got {name}={text!r}")
    return text
