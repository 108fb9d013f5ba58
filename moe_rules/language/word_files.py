"""The files of words, and the list of releases, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moe_rules.language.files import RawCondition, Table, Withdrawals


class Feature(Table):
    """Something a kernel may support; without it a condition has to hold."""

    meaning: str
    without: RawCondition = Field(description="What must hold for kernels that do not support it.")
    kind: Literal["modular", "monolithic"] | None = Field(
        None, description="Only kernels of this kind are asked."
    )


class DerivedCase(Table):
    """One case of a derived fact: a value, or that of another fact."""

    when: RawCondition | None = Field(None, description="Where it applies; always if absent.")
    value: Any = None
    value_of: str | None = Field(None, description="A fact of the same type, supplied or before.")

    @model_validator(mode="after")
    def _one_value(self) -> DerivedCase:
        if {"value", "value_of"}.isdisjoint(self.model_fields_set) or None not in (
            self.value,
            self.value_of,
        ):
            raise ValueError("a case gives either value or value_of")
        return self


class DerivedFact(Table):
    """A fact that follows from others: the first case that holds gives its value."""

    type: Literal["bool", "enum", "string", "int"]
    meaning: str
    values: list[str] = Field(default_factory=list)
    cases: list[DerivedCase]


class WithdrawnOfVocabulary(Table):
    """Words that a release does not have: why, by name."""

    facts: Withdrawals = Field(
        default_factory=dict, description="Facts, switches included, that no rule may ask then."
    )
    sets: Withdrawals = Field(default_factory=dict)
    features: Withdrawals = Field(default_factory=dict)
    derived: Withdrawals = Field(default_factory=dict)


class VocabularyFile(Table):
    """``vocabulary.yaml`` of a rule set, or what that of a release says otherwise."""

    sets: dict[str, list[Any]] = Field(default_factory=dict)
    features: dict[str, Feature] = Field(default_factory=dict)
    derived: dict[str, DerivedFact] = Field(default_factory=dict)
    withdrawn: WithdrawnOfVocabulary = Field(
        default_factory=WithdrawnOfVocabulary,
        description="In a release: words of the vocabularies before it that it takes away.",
    )


class ReleasesFile(Table):
    """``rules/releases.yaml``: the releases of the reference that the tables know."""

    releases: list[Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]] = Field(
        description="Versions, the latest first: 0.33.0.", min_length=1
    )
