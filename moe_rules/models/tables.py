"""The packaged tables of architectures and quantization methods: reading, checking, completing.

Tables are read once for each process, from where they are stored if they are. They are plain
mappings, validated, in which every default is filled in and ``like``, ``same_as`` and named scheme
lists are resolved. Overlays may have tables, too, in a folder ``models``: what they say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.releases import MODELS, release_of
from moe_rules.files.stored import stored
from moe_rules.models.errors import TableError

ROOMS = ("files", "models", "vocabulary")
"""The packages whose code makes tables of files."""


@dataclass(frozen=True)
class Tables:
    """What ``rules/models`` knows: one attribute for each of its files.

    Few models need the last two, which are read when they are first asked for. Raises TableError.
    """

    directories: tuple[Path, ...]
    architectures: Mapping[str, Any]
    quantization: Mapping[str, Any]

    @cached_property
    def registry(self) -> Mapping[str, Any]:
        """Names that are in no row of the architectures."""
        names = _stored("registry", self.directories, _read_registry)
        return {**names, "without_moe_layers": frozenset(names["without_moe_layers"])}

    def withdrawn(self, section: str, name: str) -> str | None:
        """Why the release does not have an entry that another one has; None if it is not so."""
        found = (table.get(WITHDRAWN, {}) for table in (self.architectures, self.registry))
        reasons: str | None = next(
            (t[section][name] for t in found if name in t.get(section, ())), None
        )
        return reasons

    @cached_property
    def mistral(self) -> Mapping[str, Any]:
        """How Mistral's params.json is read."""
        return _stored("mistral", self.directories, _read_mistral)


def tables_directory() -> Path:
    """The folder of the packaged tables."""
    return packaged_rules() / MODELS


@cache
def load_tables(
    directory: Path | None = None, overlays: tuple[Path, ...] = (), *, release: str | None = None
) -> Tables:
    """The tables of a directory (the packaged ones by default), with those of overlays over them.

    ``release`` is one that the packaged rules know ("0.32"), the latest if absent. Raises
    TableError, and RuleFileError for a release that there is not.
    """
    where = tables_directory() if directory is None else directory
    older = () if release is None else release_of(release).folders
    directories = (where, *(folder / MODELS for folder in (*older, *overlays)))
    return Tables(
        directories,
        _stored("architectures", directories, _read_architectures),
        _stored("quantization", directories, _read_methods),
    )


def _stored(
    name: str, directories: Sequence[Path], reader: Callable[[list[Path]], dict[str, Any]]
) -> dict[str, Any]:
    """The table of a file, and of those of releases over it, as the reader makes it.

    Raises TableError.
    """
    first, *older = (directory / f"{name}.yaml" for directory in directories)
    files = [first, *(file for file in older if file.is_file())]
    table: dict[str, Any] = stored(name, files, ROOMS, lambda: reader(files))
    return table


def _read_registry(files: list[Path]) -> dict[str, Any]:
    from moe_rules.models.registry_schema import RegistryFile

    return _validated(files, RegistryFile)


def _read_mistral(files: list[Path]) -> dict[str, Any]:
    from moe_rules.models.mistral_schema import MistralFile

    return _validated(files, MistralFile)


def _read_architectures(files: list[Path]) -> dict[str, Any]:
    from moe_rules.models.architectures_schema import Architecture, ArchitecturesFile

    return _complete_architectures(_validated(files, ArchitecturesFile), _defaults(Architecture))


def _read_methods(files: list[Path]) -> dict[str, Any]:
    from moe_rules.models.quantization_schema import Method, QuantizationFile

    return _complete_methods(_validated(files, QuantizationFile), _defaults(Method))


def _validated(files: Sequence[Path], model: Any) -> dict[str, Any]:
    """What files say together, each laid over those before it. Raises TableError."""
    import yaml
    from pydantic import ValidationError

    from moe_rules.models.schema import part_of

    data: dict[str, Any] = {}
    for path in files:
        try:
            read = yaml.load(
                path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            )
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise TableError(f"{path}: {error}") from None
        try:
            if data:
                part_of(model).model_validate(read)
                read = laid_over(data, read, path)
            model.model_validate(read)
        except ValidationError as error:
            lines = [
                f"{path}: {'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
                for one in error.errors()
            ]
            raise TableError("\n".join(lines)) from None
        data = read
    return dict(data)


WITHDRAWN = "withdrawn"
"""The section of a release's file with entries of other sections that it does not have, and why."""


def laid_over(base: Mapping[str, Any], over: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A table with what a release says otherwise: entries by name, all else as a whole.

    An entry that is ``like``, or ``same_as``, that of its own name starts from it. Raises
    TableError for an entry that is withdrawn and not there.
    """
    result = dict(base)
    gone = {**base.get(WITHDRAWN, {})}
    for section, names in over.get(WITHDRAWN, {}).items():
        gone[section] = {**gone.get(section, {}), **names}
        entries = result.get(section, ())
        missing = [name for name in names if name not in entries]
        if missing:
            raise TableError(f"{path}: {section} has no {missing[0]!r} that could be withdrawn")
        if isinstance(entries, list):
            result[section] = [entry for entry in entries if entry not in names]
        else:
            result[section] = {n: entry for n, entry in entries.items() if n not in names}
    for section, entries in over.items():
        known = result.get(section)
        if isinstance(entries, dict) and isinstance(known, dict):
            changed = {name: _from_itself(known, name, entry) for name, entry in entries.items()}
            result[section] = {**known, **changed}
        else:
            result[section] = entries
    return {**result, WITHDRAWN: gone}


def _from_itself(known: Mapping[str, Any], name: str, entry: Any) -> Any:
    for word in ("like", "same_as"):
        if isinstance(entry, dict) and entry.get(word) == name and name in known:
            return merged(known[name] or {}, {k: v for k, v in entry.items() if k != word})
    return entry


def _defaults(model: Any) -> dict[str, Any]:
    return dict(model().model_dump(by_alias=True, exclude_none=False))


def _complete_architectures(data: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    rows = data["architectures"]

    def inherited(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
        if name in seen:
            raise TableError(f"architectures.{name}: 'like' leads back to itself")
        row = rows[name] or {}
        base = inherited(row["like"], (*seen, name)) if "like" in row else {}
        return merged(base, row)

    def complete(row: dict[str, Any]) -> dict[str, Any]:
        kept = ("layers", "mtp", "platforms", "quantization", "refuse", "loading")
        varying = [name for name in row if name not in kept and _mentions_layer(row[name])]
        return {**row, "varying": varying}

    return {
        "refuse": [],
        "loading": [],
        "substitutes_experts": True,
        **data,
        "architectures": {name: complete(merged(defaults, inherited(name))) for name in rows},
        "ordinary": complete(defaults),
    }


def _mentions_layer(source: Any) -> bool:
    """Whether a source can give different values for different layers of one model."""
    if isinstance(source, Mapping):
        if source.get("per_layer") or "index_below" in source:
            return True
        return any(_mentions_layer(part) for part in source.values())
    return isinstance(source, list) and any(_mentions_layer(part) for part in source)


def _complete_methods(data: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    rows = data["methods"]
    methods: dict[str, Any] = {}
    for name, row in rows.items():
        base = rows[row["same_as"]] if row and "same_as" in row else {}
        methods[name] = {**defaults, **base, **(row or {})}
        if isinstance(methods[name]["schemes"], str):
            methods[name]["schemes"] = data["schemes"][methods[name]["schemes"]]
    return {"loading": {}, "refuse_requantized": None, **data, "methods": methods}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``; the parts ``routing`` and ``layers`` field by field."""
    result = {**base, **over}
    for part in ("routing", "layers"):
        if part in base and part in over:
            result[part] = {**base[part], **over[part]}
    return result
