"""How ``drift`` writes what of the source that the tables say again has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moe_rules.cli.render import listed
from moe_rules.cli.rule_paths import shown
from moe_rules.drift.changes import Change
from moe_rules.drift.places import Places
from moe_rules.drift.release import Part, Release
from moe_rules.files.problems import Location
from moe_rules.reporting.github import annotation
from moe_rules.vocabulary.record import Record

MOST = 4
"""Names and places that a line has at most."""


class Drift(Record):
    """Two releases, what differs, and where the tables say what."""

    before: Release
    after: Release
    changes: tuple[Change, ...]
    places: Places

    @property
    def summary(self) -> str:
        """One line: how much differs."""
        releases = f"{self.after.package} {self.before.name} -> {self.after.name}"
        kinds = ", ".join(
            f"{sum(one.kind == kind for one in self.changes)} {kind}"
            for kind in dict.fromkeys(one.kind for one in self.changes)
        )
        which = f"of {len(self.after.definitions)} definitions that the tables say again"
        return f"{releases}: {which}, {kinds or 'none differs'}"


def as_text(drift: Drift) -> str:
    """By the part of the tables: what differs, where it is, and which lines say it again."""
    groups: dict[frozenset[Part], list[Change]] = {}
    for change in drift.changes:
        groups.setdefault(change.parts, []).append(change)
    lines = []
    for parts in sorted(groups, key=_order):
        lines.append(in_words(parts))
        places = [_shown(place) for place in drift.places.of(parts)]
        lines.append(f"  said again in: {listed(places, MOST)}" if places else "  in no table")
        lines += [f"  {_in_line(change)}" for change in groups[parts]]
        lines.append("")
    return "\n".join([*lines, drift.summary])


def as_json(drift: Drift) -> str:
    """Every change with all its parts and places."""
    found: list[dict[str, Any]] = [
        {
            "kind": change.kind,
            "name": change.name,
            **({"was": change.was} if change.was else {}),
            **({"file": place.file, "line": place.line} if (place := change.place) else {}),
            "parts": [".".join(part) for part in sorted(change.parts)],
            "rules": [_shown(one) for one in drift.places.of(change.parts)],
        }
        for change in drift.changes
    ]
    releases = {"package": drift.after.package, "from": drift.before.name, "to": drift.after.name}
    return json.dumps({**releases, "changes": found}, indent=2)


def as_github(drift: Drift) -> str:
    """A warning at the first line of rules that says again what differs."""
    lines = []
    for change in drift.changes:
        places = drift.places.of(change.parts)
        first = [Location(shown(Path(one.file)), one.line or 1) for one in places[:1]]
        more = f"; said again in {len(places)} places" if len(places) > 1 else ""
        title = f"{drift.after.package} {drift.after.name} differs from {drift.before.name}"
        lines.append(annotation("warning", title, f"{_in_line(change)}{more}", *first))
    return "\n".join([*lines, drift.summary])


FORMATS: dict[str, Callable[[Drift], str]] = {
    "text": as_text,
    "json": as_json,
    "github": as_github,
}


def in_words(parts: Iterable[Part]) -> str:
    """Parts of tables: the oracles with their sections, the kernels, the files."""
    oracles: dict[str, list[str]] = {}
    for part in sorted(parts):
        if part[0] == "oracles":
            oracles.setdefault(part[1], []).extend(part[2:])
    kernels = sorted(part[1] for part in parts if part[0] == "kernels")
    files: dict[str, list[str]] = {}
    for part in sorted(parts):
        if part[0] not in ("oracles", "kernels"):
            files.setdefault(part[0], []).extend(part[2:])
    words = [f"oracle {n} ({', '.join(s)})" if s else f"oracle {n}" for n, s in oracles.items()]
    if len(words) > MOST:
        words = [f"{len(words)} oracles ({listed([*oracles], MOST)})"]
    if len(kernels) == 1:
        words.append(f"kernel {kernels[0]}")
    elif kernels:
        words.append(f"{len(kernels)} kernels ({listed(kernels, MOST)})")
    words += [f"{file} ({listed(rows, MOST)})" if rows else file for file, rows in files.items()]
    return ", ".join(words)


def _order(parts: frozenset[Part]) -> tuple[bool, int, str]:
    """What concerns oracles first, and what concerns little before what concerns much."""
    return (all(part[0] != "oracles" for part in parts), len(parts), in_words(parts))


def _in_line(change: Change) -> str:
    module, _, name = change.name.partition(":")
    former = change.was.partition(":")[0] if change.was else None if change.place else module
    where = [str(change.place)] if change.place else []
    where += [f"was in {former}"] if former else []
    return f"{change.kind:8}  {name}  ({', '.join(where)})"


def _shown(place: Location) -> str:
    file = shown(Path(place.file))
    return f"{file}:{place.line}" if place.line else file
