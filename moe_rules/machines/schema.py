"""The form of ``rules/machines.yaml`` as pydantic models, for validation and its JSON schema.

The facts in it are checked by the vocabulary itself (:mod:`moe_rules.vocabulary.facts`), as those
of a recorded machine are; their schema is derived from it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from moe_rules.machines.machine import Machine, MachineError, facts_of, normalized_name
from moe_rules.vocabulary.fact_schemas import stated
from moe_rules.vocabulary.fact_values import did_you_mean
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.table_names import PlatformName


def _check_platform(platform: dict[str, Any]) -> dict[str, Any]:
    try:
        Machine("", platform, {}, "")
    except MachineError as error:
        raise ValueError("; ".join(error.problems)) from None
    return platform


def _check_software(name: str) -> str:
    known = facts_of("software")
    if name not in known:
        raise ValueError(f"unknown {name!r}{did_you_mean(name, known)}")
    return name


Text = Annotated[str, Field(min_length=1)]
SoftwareFact = Annotated[
    str, AfterValidator(_check_software), WithJsonSchema({"enum": list(facts_of("software"))})
]
Platform = Annotated[
    dict[str, Any],
    AfterValidator(_check_platform),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {name: stated(FACTS[name]) for name in facts_of("platform")},
            "required": ["device"],
            "additionalProperties": False,
        }
    ),
]


class MachineEntry(BaseModel):
    """One named machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    product: Text = Field(description="The product, as its vendor calls it.")
    aliases: list[Text] = Field(default=[], description="Further names of the same machine.")
    platform: Platform = Field(description="Its platform facts.")
    source: Text = Field(description="Where the facts come from.")


class MachinesFile(BaseModel):
    """``machines.yaml``: machines by name, and software presets by kind of device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    software: dict[Text, dict[PlatformName, list[SoftwareFact]]] = Field(
        description="Presets: the facts that are true on each kind of device; others are false."
    )
    machines: dict[Text, MachineEntry] = Field(description="Machines by name.")

    @model_validator(mode="after")
    def _unique_names(self) -> MachinesFile:
        owner: dict[str, str] = {}
        for name, entry in self.machines.items():
            for alias in (name, *entry.aliases):
                other = owner.setdefault(normalized_name(alias), name)
                if other != name:
                    raise ValueError(f"{alias!r} names both {other} and {name}")
        return self
