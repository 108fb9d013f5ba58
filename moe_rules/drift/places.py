"""Where rules say a part of a source again: the lines that depend on it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from moe_rules.drift.release import Part
from moe_rules.files.problems import Location
from moe_rules.files.yaml_source import KEY, YamlSource, read_yaml
from moe_rules.language.ruleset import platform_files, shared_files
from moe_rules.vocabulary.table_names import PLATFORMS


class Places:
    """The places of parts in the tables of a rule set. Raises RuleFileError."""

    def __init__(self, rules: Path) -> None:
        self._rules = rules
        own = [file for name in PLATFORMS for file in platform_files(name, rules)]
        self._sources = [read_yaml(file) for file in [*own, *shared_files(rules)]]
        self._of = cache(self._places)
        self._file = cache(read_yaml)

    def of(self, parts: Iterable[Part]) -> list[Location]:
        """The places of several parts, each once, in their order."""
        return list(dict.fromkeys(place for part in sorted(parts) for place in self._of(part)))

    def _places(self, part: Part) -> list[Location]:
        file, *path = part
        if file not in ("oracles", "kernels"):
            whole = self._rules / file
            row = self._file(whole).places.get((*path, KEY)) if path else None
            return [row or Location(str(whole))]
        return [source.key_at(path) for source in self._sources for path in _paths(source, part)]


def _paths(source: YamlSource, part: Part) -> list[Part]:
    """Where a part stands in one file, as a path of keys."""
    section, name, *rest = part
    tables = source.data.get(section) or {}
    if section == "kernels":
        return [(section, key) for key, table in tables.items() if name in (key, _class(table))]
    if name not in tables:
        return []
    path = (section, name, *rest)
    return [path] if not rest or rest[0] in (tables[name] or {}) else []


def _class(table: object) -> object:
    return table.get("class") if isinstance(table, dict) else None
