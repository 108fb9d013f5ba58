"""Times of ``moe-rules bench`` in a report: every layer measured, and the cells that it is of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_rules.cli.benchmarked import read_results, scheme_of, shape_of
from moe_rules.cli.deployment import Question
from moe_rules.cli.errors import UserError
from moe_rules.machines.machine import Machine
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.record import Record

if TYPE_CHECKING:
    from moe_kernels.benchmark.shapes import Shape


class State(Record):
    """A layer of a cell in one deployment: positions in the report, and what is asked there."""

    cell: int
    deployment: int
    machine: Machine
    selector: Selector
    question: Question


def measured_layers(folder: Path, states: Iterable[State]) -> list[dict[str, Any]]:
    """The layers that ``bench`` wrote into a folder, as the schema of reports has them.

    Raises UserError for a folder without results.
    """
    results = read_results(folder)
    device = results.run["device"]
    of_layers: dict[tuple[str, Shape], list[list[int]]] = {}
    for state in states:
        if state.machine.platform.get("device_name") == device:
            for known in _measured_as(state):
                of_layers.setdefault(known, []).append([state.cell, state.deployment])
    from moe_kernels.benchmark.shapes import SHAPES

    picks = {(pick.scheme, pick.shape): pick.backend for pick in results.picks}
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for m in results.measurements:
        shape = SHAPES.get(m.shape)
        layer = found.setdefault(
            (m.scheme, m.shape, m.routing),
            {
                "shape": m.shape,
                "scheme": m.scheme,
                "routing": m.routing,
                "device": device,
                "pick": picks.get((m.scheme, m.shape)),
                "states": [] if shape is None else of_layers.get((m.scheme, shape), []),
                "points": [],
            },
        )
        layer["points"].append(
            {
                "kernel": m.kernel,
                "num_tokens": m.num_tokens,
                "us": round(m.us, 3),
                "floor_us": round(m.floor_us, 3),
            }
        )
    return [*found.values()]


def _measured_as(state: State) -> Iterator[tuple[str, Shape]]:
    """The benchmark's scheme and sizes of a layer, where it has such a scheme."""
    question = state.question
    if question.oracle is None:
        return
    facts = state.selector.decide(question.oracle, question.facts).kernel_facts
    try:
        name, _ = scheme_of(facts, question.moe.in_dtype)
    except UserError:
        return
    yield name, shape_of(question)
