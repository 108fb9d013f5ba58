"""The form of the data in a report, as pydantic models, for its JSON schema.

Everything that repeats is stored once, in a table, and referred to by its position there. So that a
page of thousands of decisions is small, what the page can find out is left out: a fact's group, a
candidate that is rejected or was reached, an empty list.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 2
"""Version of the form; it grows when a key changes its meaning or goes."""


def _position(table: str) -> Any:
    return Field(ge=0, description=f"A position in `{table}`.")


String = Annotated[int, _position("strings")]
PlaceId = Annotated[int, _position("places")]
FailureId = Annotated[int, _position("failures")]
WeighedId = Annotated[int, _position("weighed")]
StandingId = Annotated[int, _position("standings")]
ResultId = Annotated[int, _position("results")]
OrderId = Annotated[int, _position("orders")]
ReasonId = Annotated[int, _position("reasons")]
GroupId = Annotated[int, _position("fact_groups")]
AnswersId = Annotated[int, _position("answers")]
RunsId = Annotated[int, _position("runs")]


class Part(BaseModel):
    """A part of the data: no other keys than those named."""

    model_config = ConfigDict(extra="forbid")


class Rules(Part):
    """The rules of one side of the report."""

    name: str = Field(description="What the user calls them.")
    arguments: list[str] | None = Field(
        description="What a command is given to read them; null: it cannot be told."
    )
    fingerprints: list[str] = Field(description="By position in `machines`.")


class Model(Part):
    """A model that was asked about."""

    name: str
    argument: str = Field(description="What --model was given.")
    format: str = Field(description="What its own format is called in its files.")


class Machine(Part):
    """A machine: its name on the command line, and what explain says of it."""

    name: str
    record: dict[str, Any]


class Deployment(Part):
    """How a model is spread over devices: one state of the switches."""

    tp: int
    dp: int
    ep: bool
    all2all: str | None = Field(description="null: not stated, for nothing is exchanged.")


class Failure(Part):
    """A clause that failed."""

    code: String
    fact: String
    seen: String
    wanted: String
    at: PlaceId
    alternatives: list[list[FailureId]] = []


class Kernel(Part):
    """A kernel of a backend, and what speaks against it; nothing: it could serve."""

    kernel: String
    failures: list[FailureId] = []
    unknown: list[String] = []
    at: PlaceId


class Weighed(Part):
    """A backend's kernels in the order asked."""

    backend: String
    kernels: list[Kernel]


class Adjusted(Part):
    """An adjustment of the order that applies."""

    action: String
    backends: list[String]
    anchor: String | None = None
    because: String | None = None
    quirk: String | None = None
    at: PlaceId


class Removed(Part):
    """A backend that a rule took out of the order."""

    backend: String
    because: String | None = None
    at: PlaceId


class Order(Part):
    """The order of backends: as the table has it, what changed it, and what came out."""

    priority: list[String] = []
    adjusted: list[Adjusted] = []
    removed: list[Removed] = []
    order: list[String] = []


class Reason(Part):
    """Why, in one line, and the place that says so."""

    text: String | None = None
    at: PlaceId | None = None
    quirk: String | None = None


class TokenRange(Part):
    """Calls of ``first`` to ``last`` tokens, and what serves them."""

    first: int
    last: int | None
    backend: str | None
    kernel: str | None


class Standing(Part):
    """The order of backends, and what speaks against each of them."""

    order: OrderId
    weighed: list[WeighedId] = []


class Result(Part):
    """What was decided; ``why`` is what explain prints as text, in one line."""

    how: String
    backend: String | None = None
    kernel: String | None = None
    because: ReasonId | None = None
    why: ReasonId | None = None


class More(Part):
    """What few decisions say.

    ``nearest`` is what explain prints as text where no backend serves: the least changes after
    which one does.
    """

    requested: dict[str, Any] | None = None
    error: list[String] = Field(default=[], description="Its lines.")
    warnings: list[String] = []
    unknown_facts: list[String] = []
    by_num_tokens: list[TokenRange] = []
    nearest: list[String] = []


Decision = tuple[ResultId, StandingId, list[WeighedId], More]
"""What ``moe-rules explain --format json`` says of one layer, save its facts.

The third part are the backends whose kernels were asked, in that order; the first kernel of the
result's backend that could serve is selected. Those of the standing that were not asked were not
reached.
"""


class Layer(Part):
    """One kind of MoE layer: which decoder layers, and which oracle decides."""

    layers: list[int] = Field(description="First and last of each run of decoder layers.")
    oracle: String | None = Field(default=None, description="Absent: no oracle is asked.")
    notes: list[String] = []
    load_refusals: list[String] = []


class Outcome(Part):
    """What comes of a deployment: its kinds of layers, or why there is no answer."""

    layers: list[Layer] = []
    refused: String | None = Field(default=None, description="Why vLLM refuses the checkpoint.")
    invalid: String | None = Field(default=None, description="Why it cannot be deployed so.")


class Answers(Part):
    """The answers of one cell to one request, under every deployment.

    ``outcomes``, ``facts`` and, for each kind of layer, ``decisions`` are runs of positions in the
    tables of these names (null: there is no decision). The facts of a layer are those of the
    groups in ``fixed`` and in its own entry of `facts` together.
    """

    outcomes: RunsId
    decisions: list[RunsId]
    facts: RunsId
    fixed: list[GroupId]


class Cell(Part):
    """A model on a machine in a checkpoint format: its answers by request."""

    model: int
    scheme: int
    machine: int
    after: dict[str, AnswersId]
    before: dict[str, AnswersId] = Field(default={}, description="Given where rules are compared.")


class MeasuredPoint(Part):
    """The time of a kernel for calls of one size, and the least that any could take."""

    kernel: str
    num_tokens: int
    us: float
    floor_us: float


class MeasuredLayer(Part):
    """A layer that ``moe-rules bench`` measured.

    ``states`` are the positions in `cells` and `deployments` of layers of its sizes.
    """

    shape: str
    scheme: str
    routing: str
    device: str
    pick: str | None = Field(description="The backend that vLLM picks there.")
    states: list[tuple[int, int]]
    points: list[MeasuredPoint]


class ReportData(Part):
    """Everything that a report shows."""

    version: Literal[2]
    moe_rules: str = Field(description="The version that wrote it.")
    format_version: int = Field(description="That of what explain prints as JSON.")
    arguments: list[str] = Field(description="What every command of the report is given besides.")
    repository: str | None = Field(description="Where links to places lead, above their path.")
    family_names: list[str] = Field(description="Every family, in the order of its colours.")
    families: dict[str, str] = Field(description="The family of every backend.")
    after: Rules
    before: Rules | None
    models: list[Model]
    machines: list[Machine]
    schemes: list[str | None] = Field(description="Checkpoint formats; null: the model's own.")
    deployments: list[Deployment]
    requests: list[str] = Field(description="Every request that some cell takes.")
    cells: list[Cell]
    answers: list[Answers]
    runs: list[list[int | None]] = Field(description="Lists as value and count in turn.")
    outcomes: list[Outcome]
    facts: list[list[list[GroupId]]] = Field(description="Groups of facts, by kind of layer.")
    fact_groups: list[dict[str, Any]]
    decisions: list[Decision]
    orders: list[Order]
    weighed: list[Weighed]
    standings: list[Standing]
    results: list[Result]
    reasons: list[Reason]
    failures: list[Failure]
    places: list[tuple[String, int, int]] = Field(
        description="File (below its rule set's folder), line and column; 0: none."
    )
    strings: list[str]
    in_repository: list[str] = Field(description="Files that have their path there as a name.")
    measured: list[MeasuredLayer]
