"""What of the source that the tables say again differs between two releases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from moe_rules.drift.release import Part, Release
from moe_rules.files.problems import Location

Kind = Literal["changed", "appeared", "vanished", "moved"]


@dataclass(frozen=True)
class Change:
    """A definition that is another one.

    ``was`` is its former name where it is in another module now, ``place`` where it is (None where
    it is gone); ``parts`` are the parts of the tables that say it again, or said it again before.
    """

    kind: Kind
    name: str
    was: str | None
    place: Location | None
    parts: frozenset[Part]


def changes(before: Release, after: Release) -> list[Change]:
    """Every definition that counts and differs, sorted by name.

    One that is in another module now is "moved", or "changed" if that is not all.
    """
    return sorted(_changes(before, after), key=lambda change: change.name)


def _changes(before: Release, after: Release) -> Iterator[Change]:
    said_before, said = before.parts(), after.parts()
    gone = {name for name in before.definitions if name not in after.definitions}
    where = {_qualified(name): name for name in sorted(gone)}
    for name, one in after.definitions.items():
        was = name if name in before.definitions else where.get(_qualified(name))
        if was is None:
            yield Change("appeared", name, None, one.place, said[name])
            continue
        gone.discard(was)
        same = before.definitions[was].fingerprint == one.fingerprint
        if same and was == name:
            continue
        parts = said_before[was] | said[name]
        moved_from = None if was == name else was
        yield Change("moved" if same else "changed", name, moved_from, one.place, parts)
    for name in gone:
        yield Change("vanished", name, None, None, said_before[name])


def _qualified(name: str) -> str:
    return name.partition(":")[2]
