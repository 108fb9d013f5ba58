"""The releases of the reference that the tables know, and where what each decides otherwise is.

``rules/releases.yaml`` lists them, the latest first. The folder ``rules`` itself has the tables of
that one, and each folder of ``rules/releases`` what a release decides otherwise than the next.
"""

from __future__ import annotations

import functools
from itertools import pairwise
from pathlib import Path
from typing import Any

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import KeyPath, Location, Problem, RuleFileError
from moe_rules.files.stored import stored
from moe_rules.vocabulary.record import Record

LIST = "releases.yaml"
"""The file of a rule set that lists its releases."""
FOLDER = "releases"
"""The folder of a rule set that has what older releases decide otherwise."""
MODELS = "models"
"""The folder of a rule set, or of an overlay, that has tables of models."""
ROOMS = ("files",)
"""The packages whose code makes the list of the file."""


class Release(Record):
    """A release whose decisions the tables know.

    ``name`` is what users call it ("0.32"), ``version`` the version that was recorded ("0.32.0").
    ``folders`` are the overlays that make the tables of the rule set its own; none for the latest.
    """

    name: str
    version: str
    folders: tuple[Path, ...] = ()


def releases(rules: Path | None = None) -> tuple[Release, ...]:
    """The releases of a rule set (the packaged one if absent), the latest first.

    Another rule set without a list has none. Raises RuleFileError for a list that is wrong, and
    where a folder lacks or belongs to no release.
    """
    found = _releases(rules or packaged_rules())
    if rules is None and not found:
        raise RuleFileError(
            [_wrong(packaged_rules() / LIST, f"there is no such file; {_FORM}", ())]
        )
    return found


def release_of(word: str, rules: Path | None = None) -> Release:
    """The release that a user calls "0.32" or "0.32.0".

    Raises RuleFileError, with the nearest; TypeError for what is no text, as 0.30 would be 0.3.
    """
    if not isinstance(word, str):
        raise TypeError(f"a release is text, as '0.32', and not {word!r}")
    known = releases(rules)
    found = called(word, known)
    if found is not None:
        return found
    file = (rules or packaged_rules()) / LIST
    message = f"there are no tables of release {word!r}"
    if not known:
        message += ", nor of any other"
        raise RuleFileError([Problem("unknown-release", message, Location(str(file)))])
    from moe_rules.files.yaml_source import read_yaml

    names = ", ".join(one.name for one in known)
    message += f"; the nearest that there are: {nearest(word, known).name} (all: {names})"
    raise RuleFileError([Problem("unknown-release", message, read_yaml(file).at(("releases",)))])


def called(word: str, known: tuple[Release, ...]) -> Release | None:
    """Of several releases, the one that is called "0.32", "0.32.0" or "v0.32"."""
    name = word.removeprefix("v")
    return next((one for one in known if name in (one.name, one.version)), None)


def nearest(version: str, known: tuple[Release, ...]) -> Release:
    """Of several releases, the one that is nearest to a version; the latest if it is none."""
    asked = _numbers(version)
    return min(known, key=lambda one: abs(_place(asked) - _place(_numbers(one.version))))


_DIGITS = 9
"""What has more of them is no number of a version."""


def _place(numbers: tuple[int, ...]) -> int:
    """Where a version lies among all: one number that grows with it; far up for none."""
    parts = (*numbers, 0, 0, 0)[:3] if numbers else (1000, 0, 0)
    return parts[0] * 10**6 + parts[1] * 10**3 + parts[2]


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (0, 33, 1) of 0.33.1rc1+cpu."""
    numbers: list[int] = []
    for part in version.removeprefix("v").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not 0 < len(digits) <= _DIGITS:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


@functools.cache
def _releases(rules: Path) -> tuple[Release, ...]:
    file = rules / LIST
    versions: list[str] = []
    if file.exists():
        versions = stored("releases", [file], ROOMS, lambda: _read(file))
    names = [".".join(version.split(".")[:2]) for version in versions]
    folders = [rules / FOLDER / name for name in names[1:]]
    problems = [
        _wrong(
            file,
            f"there is no folder {FOLDER}/{folder.name}, of what {older} decides otherwise than "
            f"{newer}; it is empty where that is nothing",
            ("releases", number),
        )
        for number, ((newer, older), folder) in enumerate(
            zip(pairwise(versions), folders, strict=True), 1
        )
        if not folder.is_dir()
    ]
    there = sorted(one for one in (rules / FOLDER).glob("[!.]*") if one.is_dir())
    problems += [
        _wrong(file, f"{FOLDER}/{one.name} is the folder of no older release here", ("releases",))
        for one in there
        if one not in folders
    ]
    if problems:
        raise RuleFileError(problems)
    return tuple(
        Release(name, version, tuple(folders[:number]))
        for number, (name, version) in enumerate(zip(names, versions, strict=True))
    )


def _wrong(file: Path, message: str, key: KeyPath) -> Problem:
    from moe_rules.files.yaml_source import read_yaml

    place = read_yaml(file).at(key) if file.exists() else Location(str(file))
    return Problem("bad-value", message, place)


_FORM = "a list of releases is 'releases: [0.33.0, 0.32.0]', the latest first"


def _read(file: Path) -> list[str]:
    """The versions that a list of releases has. Raises RuleFileError."""
    from moe_rules.files.yaml_source import read_yaml

    source = read_yaml(file)
    versions: Any = source.data.get("releases") if isinstance(source.data, dict) else None
    if not (isinstance(versions, list) and versions and all(map(_is_version, versions))):
        raise RuleFileError([Problem("bad-value", _FORM, source.at(("releases",)))])
    for number, (newer, older) in enumerate(pairwise(versions), 1):
        if _numbers(older)[:2] >= _numbers(newer)[:2]:
            message = f"{older} is no release before {newer}, each MAJOR.MINOR of which has one"
            place = source.at(("releases", number))
            raise RuleFileError([Problem("bad-value", f"{message}; {_FORM}", place)])
    return versions


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and len(_numbers(value)) == 3
