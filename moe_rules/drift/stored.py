"""Fingerprints of releases as data: ``rules/fingerprints/RELEASE.json``.

``definitions`` has the definitions by module: for each its fingerprint, and what it uses itself, as
numbers that count all definitions of the file from 0. ``cited`` has numbers by part of the tables.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moe_rules.drift.release import Print, Release
from moe_rules.drift.source import SourceError
from moe_rules.files.packaged import packaged_rules

FOLDER = "fingerprints"
_SEPARATOR = " "


def folder_of(rules: Path | None = None) -> Path:
    """Where a rule set has them."""
    return (rules or packaged_rules()) / FOLDER


def releases(folder: Path) -> list[str]:
    """The releases of which there are fingerprints, the oldest first."""
    return sorted((file.stem for file in folder.glob("*.json")), key=_version)


def read(folder: Path, release: str) -> Release:
    """The fingerprints of a release ("0.33" is 0.33.0). Raises SourceError."""
    known = releases(folder)
    found = next((one for one in known if _version(one) == _version(release)), None)
    if found is None:
        raise SourceError(f"there are no fingerprints of {release} (of {', '.join(known)})")
    return _from_plain(json.loads((folder / f"{found}.json").read_text(encoding="utf-8")))


def write(folder: Path, release: Release) -> Path:
    """Write the fingerprints of a release. Returns the file."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{release.name}.json"
    file.write_text(as_text(release), encoding="utf-8")
    return file


def as_text(release: Release) -> str:
    """The file of a release: a line for each definition."""
    number = {name: i for i, name in enumerate(release.definitions)}
    modules: dict[str, list[str]] = {}
    for name, one in release.definitions.items():
        module, _, qualified = name.partition(":")
        entry = [one.fingerprint, *(number[used] for used in one.uses)]
        modules.setdefault(module, []).append(f"   {json.dumps(qualified)}: {json.dumps(entry)}")
    cited = [
        f"  {json.dumps(_SEPARATOR.join(part))}: {json.dumps([number[name] for name in names])}"
        for part, names in release.cited.items()
    ]
    written = [f'  "{name}": {{\n' + ",\n".join(lines) + "}" for name, lines in modules.items()]
    return (
        f'{{"package": "{release.package}",\n "release": "{release.name}",\n "definitions": {{\n'
        + ",\n".join(written)
        + '},\n "cited": {\n'
        + ",\n".join(cited)
        + "}}\n"
    )


def _from_plain(data: dict[str, Any]) -> Release:
    entries = [
        (f"{module}:{qualified}", entry)
        for module, inside in data["definitions"].items()
        for qualified, entry in inside.items()
    ]
    names = [name for name, _ in entries]
    return Release(
        data["package"],
        data["release"],
        {name: Print(first, tuple(names[i] for i in used)) for name, (first, *used) in entries},
        {
            tuple(part.split(_SEPARATOR)): tuple(names[i] for i in numbers)
            for part, numbers in data["cited"].items()
        },
    )


def _version(text: str) -> tuple[tuple[int, int | str], ...]:
    """A release as what orders it, without zeros at its end."""
    parts = [(0, int(part)) if part.isdecimal() else (1, part) for part in text.split(".")]
    while len(parts) > 1 and parts[-1] == (0, 0):
        parts.pop()
    return tuple(parts)
