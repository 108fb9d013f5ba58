"""One file of a platform's rules as it was read: what it says, where, and if as an overlay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.files.problems import KeyPath, Problem
from moe_rules.files.yaml_source import YamlSource
from moe_rules.language.files import PlatformFile
from moe_rules.language.rules import Reason
from moe_rules.vocabulary.fact_values import did_you_mean
from moe_rules.vocabulary.record import Record


class Part(Record):
    """One file of a platform."""

    source: YamlSource
    file: PlatformFile
    overlay: bool = False


def withdraw(
    source: YamlSource, path: KeyPath, names: Mapping[str, str], entries: dict[str, Any]
) -> tuple[dict[str, Reason], list[Problem]]:
    """Take entries away that a file withdraws under ``path``: each name's reason, and problems."""
    reasons, problems = {}, []
    for name, why in names.items():
        place = source.key_at((*path, name))
        if entries.pop(name, None) is None:
            nearest = did_you_mean(name, entries)
            message = f"{path[-1]} have no {name!r} that could be withdrawn{nearest}"
            problems.append(Problem("unknown-name", message, place))
        reasons[name] = Reason(why, place)
    return reasons, problems
