"""The rule files as pydantic models: what a file may contain, before names are resolved.

The JSON Schemas in ``schemas/`` are generated from these models (``moe-rules schema --write``).
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from moe_rules.language.finding_codes import FindingCode
from moe_rules.language.requested import keys
from moe_rules.language.rules import ErrorKind
from moe_rules.vocabulary.table_names import ORACLES, PLATFORMS, OracleName, PlatformName

RawCondition = Annotated[dict[str, Any], WithJsonSchema({"x-definition": "Condition"})]
RawTest = Annotated[Any, WithJsonSchema({"x-definition": "Test"})]
RawValues = Annotated[dict[str, Any], WithJsonSchema({"x-definition": "Values"})]


def _listed(raw: Any) -> Any:
    return raw if isinstance(raw, list) else [raw]


CLASS_PATTERN = r"^([A-Za-z_][\w.]*:)?[A-Za-z_]\w*$"


def _class_name(text: str) -> str:
    if re.match(CLASS_PATTERN, text) is None:
        raise ValueError(f"a class is written as Name or module:Name, not {text!r}")
    return text


ClassName = Annotated[
    str,
    AfterValidator(_class_name),
    WithJsonSchema({"type": "string", "pattern": CLASS_PATTERN}),
]
"""A class's name, or where it is: "module:Name"."""

OneOrMore = Annotated[
    list[str],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""A word, or a list of words."""


def _each_once(names: list[str]) -> list[str]:
    if not names:
        raise ValueError("this names no platform")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is named twice")
    return names


_PLATFORM = {"type": "string", "enum": list(PLATFORMS)}
_SEVERAL = {"type": "array", "minItems": 1, "uniqueItems": True}
Platforms = Annotated[
    list[PlatformName],
    BeforeValidator(_listed),
    AfterValidator(_each_once),
    WithJsonSchema({"anyOf": [_PLATFORM, {**_SEVERAL, "items": _PLATFORM}]}),
]
"""A platform, or a list of platforms."""

Accepted = dict[FindingCode, str]

RequestedBackends = Annotated[
    dict[str, str],
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {key: {"type": "string"} for key in keys(ORACLES)},
        }
    ),
]


class Table(BaseModel):
    """Base of everything in a rule file: closed, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Evidence(Table):
    """A measurement behind a priority or an adjustment."""

    device: str = Field(description="The machine it was measured on.")
    date: str = Field(description="When, as 2026-11-23.")
    versions: str = Field(description="Of the software that was measured.")
    figure: str = Field(description="What was measured, with its unit.")
    link: str | None = Field(None, description="Where to read more.")


class Explained(Table):
    """A rule with its reason."""

    because: str | None = Field(None, description="Why the rule is there.")
    quirk: str | None = Field(
        None,
        description="The reference does this, and probably meant something else: what, and what.",
    )
    evidence: list[Evidence] = Field(default_factory=list)
    accepted: Accepted = Field(
        default_factory=dict,
        description="What `moe-rules verify` finds here and is meant so: why, by its code.",
    )


class Listed(Explained):
    """An entry of a list, which an overlay can address by its name."""

    name: str | None = Field(
        None, description="What overlays call it, to replace or to withdraw it."
    )
    replaces: str | None = Field(
        None,
        description="In an overlay: take the place of the entry of this name in the same list.",
    )


class Assumption(Listed):
    """Facts that the oracle fixes before it asks anything."""

    when: RawCondition | None = Field(None, description="Where it applies; always if absent.")
    set: RawValues = Field(
        description="Facts and the value each takes; {value_of: FACT} copies another fact."
    )


_OF_STEPS = {
    "take": ("kernels",),
    "try": ("kernels", "requires", "assume"),
    "force": ("kernels", "requires", "assume", "error"),
    "refuse": ("error",),
    "drop": (),
}
"""What a step does, and the keys that say more of it."""


class Step(Listed):
    """One step of ``shortcuts`` or ``switches``; the first that decides ends the selection."""

    when: RawCondition | None = Field(None, description="Where it applies; always if absent.")
    take: str | None = Field(None, description="Select this backend without asking its kernels.")
    try_: str | None = Field(
        None,
        alias="try",
        description="Select this backend if it serves; if not, go on without it.",
    )
    force: str | None = Field(
        None, description="Select this backend; if it does not serve, that is an error."
    )
    refuse: str | None = Field(None, description="An error with this text.")
    drop: list[str] | None = Field(None, description="Go on without these backends, if any.")
    kernels: list[str] | None = Field(None, description="Kernels to ask instead of the backend's.")
    requires: RawCondition | None = Field(None, description="Asked besides the backend's own.")
    assume: RawValues | None = Field(None, description="Facts fixed for this step.")
    error: ErrorKind = Field("invalid_request", description="Kind of error of force and refuse.")

    @model_validator(mode="after")
    def _one_action(self) -> Step:
        said = self.model_dump(exclude_unset=True, by_alias=True, exclude_none=True)
        actions = [action for action in _OF_STEPS if action in said]
        if len(actions) != 1:
            raise ValueError(f"a step does exactly one of: {', '.join(_OF_STEPS)}")
        for key in itertools.chain(*_OF_STEPS.values()):
            if key in said and key not in _OF_STEPS[actions[0]]:
                raise ValueError(f"{key!r} says nothing with {actions[0]!r}")
        return self


class RequestCase(Explained):
    """What a requested name means under a condition."""

    when: RawCondition | None = Field(None, description="Where it applies; always if absent.")
    use: OneOrMore = Field(description="Backends to ask, in order.")
    assume: RawValues | None = Field(None, description="Facts fixed for this request.")
    variants: Literal["all"] | None = Field(
        None, description='"all": the oracle\'s variants do not narrow this request.'
    )


class Adjustment(Listed):
    """A change of the priority list; adjustments apply in file order."""

    when: RawCondition | None = Field(None, description="Where it applies; always if absent.")
    first: list[str] | None = Field(None, description="To the front, in this order.")
    last: list[str] | None = Field(None, description="To the end, in this order.")
    move: str | None = Field(None, description="This backend, with before or after.")
    before: str | None = Field(None, description="Directly ahead of this one, if not yet ahead.")
    after: str | None = Field(None, description="Directly behind this one.")
    drop: list[str] | None = Field(
        None, description="Not selected automatically; a request by name still works."
    )
    withdraw: list[str] | None = Field(None, description="Not available, not even by name.")

    @model_validator(mode="after")
    def _one_action(self) -> Adjustment:
        actions = [self.first, self.last, self.move, self.drop, self.withdraw]
        if sum(action is not None for action in actions) != 1:
            raise ValueError("an adjustment does exactly one of: first, last, move, drop, withdraw")
        if (self.move is None) != (self.before is None and self.after is None):
            raise ValueError("move goes with before or after")
        if self.before is not None and self.after is not None:
            raise ValueError("move goes with either before or after, not both")
        return self


class Variants(Table):
    """Backends that differ in one fact's value, narrowed to what the deployment asks for.

    Backends whose own value (their ``assume``) equals the deployment's come first, those with
    the fallback value follow, the others are dropped. Where the deployment has the fallback
    value and no backend has it, all stay.
    """

    by: str = Field(description="The fact.")
    fallback: Any = Field(description="The value that serves where nothing matches.")


class KernelChoice(Table):
    """A kernel that a backend offers only under a condition."""

    kernel: str
    when: RawCondition | None = Field(None, description="Where it is offered; always if absent.")


def _kernel_choices(raw: Any) -> Any:
    return [{"kernel": item} if isinstance(item, str) else item for item in _listed(raw)]


def _request_cases(raw: Any) -> Any:
    """A list of words is one case with several backends; with mappings in it, several cases."""
    items = _listed(raw)
    if all(isinstance(item, str) for item in items):
        return [{"use": items}]
    return [{"use": item} if isinstance(item, str) else item for item in items]


KernelChoices = Annotated[
    list[KernelChoice],
    BeforeValidator(_kernel_choices),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"anyOf": [{"type": "string"}, {"x-definition": "KernelChoice"}]},
        }
    ),
]
RequestCases = Annotated[
    list[RequestCase],
    BeforeValidator(_request_cases),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"x-definition": "RequestCase"},
                {
                    "type": "array",
                    "items": {"anyOf": [{"type": "string"}, {"x-definition": "RequestCase"}]},
                },
            ]
        }
    ),
]


class BackendTable(Explained):
    """A backend: the kernels it may use, in order."""

    kernels: KernelChoices = Field(description="Asked in this order.")
    requires: RawCondition | None = Field(None, description="Asked before any kernel.")
    assume: RawValues | None = Field(None, description="Facts fixed while its kernels are asked.")


class Otherwise(Explained):
    """What happens where no backend serves."""

    backend: str | None = Field(None, description="This backend is the answer, with no kernel.")
    error: ErrorKind = Field("not_supported", description="Kind of error, if no backend is named.")


Withdrawals = dict[str, str]


class WithdrawnOfOracle(Table):
    """Entries of an oracle that an overlay takes away: why, by name."""

    backends: Withdrawals = Field(
        default_factory=dict, description="With all that names them; requests for them alone, too."
    )
    requests: Withdrawals = Field(default_factory=dict)
    assume: Withdrawals = Field(default_factory=dict)
    shortcuts: Withdrawals = Field(default_factory=dict)
    switches: Withdrawals = Field(default_factory=dict)
    adjust: Withdrawals = Field(default_factory=dict)


class OracleTable(Table):
    """How one oracle selects on one platform."""

    about: str | None = Field(None, description="One line for a reader.")
    extends: OracleName | None = Field(
        None,
        description="Start from this oracle's backends and requests; those given here replace "
        "its of that name. Nothing else is taken over.",
    )
    assume: list[Assumption] = Field(default_factory=list)
    shortcuts: list[Step] = Field(default_factory=list, description="Before a request is read.")
    requests: dict[str, RequestCases] = Field(
        default_factory=dict,
        description="What moe_backend may be, and the backends each name means.",
    )
    request_error: ErrorKind = Field(
        "invalid_request", description="Kind of error where a requested backend cannot serve."
    )
    switches: list[Step] = Field(default_factory=list, description="After a request is read.")
    priority: list[str] | None = Field(None, description="Backends in the order they are tried.")
    adjust: list[Adjustment] = Field(default_factory=list)
    variants: Variants | None = None
    backends: dict[str, BackendTable] = Field(default_factory=dict)
    otherwise: Otherwise | None = None
    withdrawn: WithdrawnOfOracle = Field(
        default_factory=WithdrawnOfOracle,
        description="In an overlay: entries of files before it that it takes away.",
    )


class SchemeTable(Table):
    """Weight and activation keys that a kernel takes together."""

    weight: RawTest
    activation: RawTest
    when: RawCondition | None = Field(None, description="Where it applies; always if absent.")


class KernelTable(Explained):
    """What a kernel class supports on one platform. Everything said must hold."""

    class_: ClassName | None = Field(
        None,
        alias="class",
        description="Class name, where it differs from the entry's, or module:Name.",
    )
    extends: str | None = Field(
        None, description="Start from this entry; keys given here replace its keys."
    )
    kind: Literal["modular", "monolithic"] | None = Field(
        None, description="monolithic kernels route tokens themselves; modular is the default."
    )
    supports: list[str] | None = Field(
        None, description="Features; a kernel supports none that it does not name."
    )
    schemes: list[SchemeTable] | None = Field(None, description="Quantization schemes it takes.")
    requires: RawCondition | None = Field(None, description="What must hold besides.")
    replace: bool = Field(
        False,
        description="In an overlay: take the place of the packaged entry instead of adding to it.",
    )


class WithdrawnOfPlatform(Table):
    """Entries of a platform's files that an overlay takes away: why, by name."""

    kernels: Withdrawals = Field(
        default_factory=dict, description="From the lists of backends as well."
    )
    conditions: Withdrawals = Field(default_factory=dict)


class PlatformFile(Table):
    """A rule file: oracles, kernels and conditions of a platform, or what several share of them."""

    platforms: Platforms = Field(
        alias="platform", description="The platform that all of it is of, or a list of several."
    )
    oracles: dict[OracleName, OracleTable] = Field(default_factory=dict)
    kernels: dict[str, KernelTable] = Field(default_factory=dict)
    requested: RequestedBackends = Field(
        default_factory=dict,
        description="Backends asked for by name: by oracle, by role of the model, or ROLE.ORACLE.",
    )
    conditions: dict[str, RawCondition] = Field(
        default_factory=dict, description="Conditions used by name: {is: NAME}."
    )
    withdrawn: WithdrawnOfPlatform = Field(
        default_factory=WithdrawnOfPlatform,
        description="In an overlay: entries of files before it that it takes away.",
    )
    accepted: Accepted = Field(
        default_factory=dict,
        description="What `moe-rules verify` finds in this file and is meant so: why, by its code.",
    )
