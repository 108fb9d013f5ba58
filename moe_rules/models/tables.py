"""The packaged tables of architectures and quantization methods: reading, checking, completing.

Tables are read once for each process, from where they are stored if they are. They are plain
mappings, validated, in which every default is filled in and ``like``, ``same_as`` and named scheme
lists are resolved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.stored import stored
from moe_rules.models.errors import TableError

ROOMS = ("files", "models", "vocabulary")
"""The packages whose code makes tables of files."""


@dataclass(frozen=True)
class Tables:
    """What ``rules/models`` knows: one attribute for each of its files.

    Few models need the last two, which are read when they are first asked for. Raises TableError.
    """

    directory: Path
    architectures: Mapping[str, Any]
    quantization: Mapping[str, Any]

    @cached_property
    def registry(self) -> Mapping[str, Any]:
        """Names that are in no row of the architectures."""
        names = _stored("registry", self.directory, _read_registry)
        return {**names, "without_moe_layers": frozenset(names["without_moe_layers"])}

    @cached_property
    def mistral(self) -> Mapping[str, Any]:
        """How Mistral's params.json is read."""
        return _stored("mistral", self.directory, _read_mistral)


def tables_directory() -> Path:
    """The folder of the packaged tables."""
    return packaged_rules() / "models"


@cache
def load_tables(directory: Path | None = None) -> Tables:
    """The tables of a directory (the packaged ones by default). Raises TableError."""
    where = tables_directory() if directory is None else directory
    return Tables(
        where,
        _stored("architectures", where, _read_architectures),
        _stored("quantization", where, _read_methods),
    )


def _stored(name: str, directory: Path, reader: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The table of a file, as the reader makes it. Raises TableError."""
    file = directory / f"{name}.yaml"
    table: dict[str, Any] = stored(name, [file], ROOMS, lambda: reader(file))
    return table


def _read_registry(file: Path) -> dict[str, Any]:
    from moe_rules.models.schema import RegistryFile

    return _validated(file, RegistryFile)


def _read_mistral(file: Path) -> dict[str, Any]:
    from moe_rules.models.schema import MistralFile

    return _validated(file, MistralFile)


def _read_architectures(file: Path) -> dict[str, Any]:
    from moe_rules.models.schema import Architecture, ArchitecturesFile

    return _complete_architectures(_validated(file, ArchitecturesFile), _defaults(Architecture))


def _read_methods(file: Path) -> dict[str, Any]:
    from moe_rules.models.quantization_schema import Method, QuantizationFile

    return _complete_methods(_validated(file, QuantizationFile), _defaults(Method))


def _validated(path: Path, model: Any) -> dict[str, Any]:
    import yaml
    from pydantic import ValidationError

    try:
        data = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: {error}") from None
    try:
        model.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
            for one in error.errors()
        ]
        raise TableError("\n".join(lines)) from None
    return dict(data)


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
    return {"loading": {}, **data, "methods": methods}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``; the parts ``routing`` and ``layers`` field by field."""
    result = {**base, **over}
    for part in ("routing", "layers"):
        if part in base and part in over:
            result[part] = {**base[part], **over[part]}
    return result
