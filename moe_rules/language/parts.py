"""One file of a platform's rules as it was read: what it says, where, and if as an overlay."""

from __future__ import annotations

from collections.abc import Iterable

from moe_rules.files.problems import Location, Problem
from moe_rules.files.yaml_source import YamlSource
from moe_rules.language.files import PlatformFile
from moe_rules.vocabulary.fact_values import did_you_mean
from moe_rules.vocabulary.record import Record


class Part(Record):
    """One file of a platform."""

    source: YamlSource
    file: PlatformFile
    overlay: bool = False


def nothing_to_withdraw(section: str, name: str, known: Iterable[str], place: Location) -> Problem:
    """The finding of a file that withdraws what no file before it has."""
    message = f"{section} have no {name!r} that could be withdrawn{did_you_mean(name, known)}"
    return Problem("unknown-name", message, place)
