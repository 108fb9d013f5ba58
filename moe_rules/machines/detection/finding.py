"""What a probe reports: one fact, its value, and how that is known."""

from __future__ import annotations

from dataclasses import dataclass

from moe_rules.vocabulary.fact_values import FactValue


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer of a probe. ``known`` is false where it could not tell; ``value`` is then None.

    ``how`` is evidence or the reason for not knowing, in words.
    """

    fact: str
    value: FactValue
    how: str
    known: bool = True

    @classmethod
    def unknown(cls, fact: str, how: str) -> Finding:
        """A fact that cannot be told from outside, with the reason."""
        return cls(fact, None, how, known=False)
