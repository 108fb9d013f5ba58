"""The tables of architectures and quantization methods, packaged and with those of overlays.

Tables are read once for each process, from where they are stored if they are; what
:mod:`moe_rules.models.table_files` makes of files is stored. Overlays may have tables, too, in a
folder ``models``: what they say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.present import is_present
from moe_rules.files.releases import MODELS, release_of
from moe_rules.files.stored import stored

ROOMS = ("files", "models", "vocabulary")
"""The packages whose code makes tables of files."""


@dataclass(frozen=True)
class Tables:
    """What ``rules/models`` knows: one attribute for each of its files.

    Few models need the last two, which are read when they are first asked for. Raises
    RuleFileError.
    """

    directories: tuple[Path, ...]
    architectures: Mapping[str, Any]
    quantization: Mapping[str, Any]

    @cached_property
    def registry(self) -> Mapping[str, Any]:
        """Names that are in no row of the architectures."""
        names = _stored("registry", self.directories)
        return {**names, "without_moe_layers": frozenset(names["without_moe_layers"])}

    def withdrawn(self, section: str, name: str) -> str | None:
        """Why the release does not have an entry that another one has; None if it is not so."""
        found = (table.get("withdrawn", {}) for table in (self.architectures, self.registry))
        reasons: str | None = next(
            (t[section][name] for t in found if name in t.get(section, ())), None
        )
        return reasons

    @cached_property
    def mistral(self) -> Mapping[str, Any]:
        """How Mistral's params.json is read."""
        return _stored("mistral", self.directories)


def tables_directory() -> Path:
    """The folder of the packaged tables."""
    return packaged_rules() / MODELS


@cache
def load_tables(
    directory: Path | None = None, overlays: tuple[Path, ...] = (), *, release: str | None = None
) -> Tables:
    """The tables of a directory (the packaged ones by default), with those of overlays over them.

    ``release`` is one that the packaged rules know ("0.32"), the latest if absent. Raises
    RuleFileError for files that are wrong, and for a release that there is not.
    """
    where = tables_directory() if directory is None else directory
    older = () if release is None else release_of(release).folders
    directories = (where, *(folder / MODELS for folder in (*older, *overlays)))
    return Tables(
        directories,
        _stored("architectures", directories),
        _stored("quantization", directories),
    )


def _stored(name: str, directories: Sequence[Path]) -> dict[str, Any]:
    """The table of a file, with those of releases over it. Raises RuleFileError."""
    first, *older = (directory / f"{name}.yaml" for directory in directories)
    files = [first, *(file for file in older if is_present(file))]

    def make() -> dict[str, Any]:
        from moe_rules.models.table_files import read_table

        return read_table(name, files)

    table: dict[str, Any] = stored(name, files, ROOMS, make)
    return table
