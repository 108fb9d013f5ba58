"""Diagrams and their variables as plain data and back, so that they can be stored.

As the rules' own plain form (:mod:`moe_rules.language.plain_form`), with what diagrams are made of.
Diagrams that are read are walked; they have no manager that could make others of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moe_rules.analysis.classes import Variable
from moe_rules.analysis.diagram import Node
from moe_rules.analysis.questions import Fixed, Missing, Probe
from moe_rules.engine.selection import Result
from moe_rules.language.plain_form import CLASSES, Reader, Writer

_CLASSES: Mapping[type, Callable[..., Any]] = {
    **CLASSES,
    **{made: made for made in (Node, Variable, Probe, Fixed, Missing, Result)},
}


def to_plain(value: Any) -> dict[str, Any]:
    """Plain data of diagrams, variables, and tuples and mappings of them."""
    writer = Writer(_CLASSES)
    return {"value": writer.value(value), "nodes": writer.nodes}


def from_plain(data: Mapping[str, Any]) -> Any:
    """Inverse of :func:`to_plain`."""
    return Reader(data["nodes"], _CLASSES).value(data["value"])
