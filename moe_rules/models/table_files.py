"""Reads the files of model tables: checked, laid over each other, and completed.

What comes out is plain: every default is filled in, and ``like``, ``same_as`` and named lists of
schemes are resolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_rules.files.problems import Problem, RuleFileError
from moe_rules.files.validate import validate
from moe_rules.files.yaml_source import YamlSource, read_yaml
from moe_rules.models.architectures_schema import Architecture, ArchitecturesFile
from moe_rules.models.merging import merged
from moe_rules.models.mistral_schema import MistralFile
from moe_rules.models.quantization_schema import Method, QuantizationFile
from moe_rules.models.registry_schema import RegistryFile
from moe_rules.models.schema import Closed, TableFile, part_of
from moe_rules.vocabulary.fact_values import did_you_mean

WITHDRAWN = "withdrawn"
"""The section of a release's file with entries of other sections that it does not have, and why."""
SHAPES: dict[str, type[TableFile]] = {
    "architectures": ArchitecturesFile,
    "quantization": QuantizationFile,
    "registry": RegistryFile,
    "mistral": MistralFile,
}
"""What a file of tables may contain, by its name."""


def read_table(name: str, files: Sequence[Path]) -> dict[str, Any]:
    """The table that files say together, each laid over those before it. Raises RuleFileError."""
    shape = SHAPES[name]
    first, *overlays = map(read_yaml, files)
    validate(shape, first)
    table = first
    for over in overlays:
        validate(part_of(shape), over)
        table = laid_over(table, over)
        validate(shape, table)
    if name == "architectures":
        return _complete_architectures(table)
    return _complete_methods(table.data) if name == "quantization" else dict(table.data)


def laid_over(base: YamlSource, over: YamlSource) -> YamlSource:
    """A table with what a release says otherwise: entries by name, all else as a whole.

    An entry that is ``like``, or ``same_as``, that of its own name starts from it. Raises
    RuleFileError for an entry that is withdrawn and not there.
    """
    result = dict(base.data)
    gone = {**result.get(WITHDRAWN, {})}
    problems = []
    for section, names in over.data.get(WITHDRAWN, {}).items():
        gone[section] = {**gone.get(section, {}), **names}
        entries = result.get(section, ())
        for name in names:
            if name not in entries:
                message = f"{section} has no {name!r} that could be withdrawn"
                place = over.key_at((WITHDRAWN, section, name))
                hint = did_you_mean(name, entries)
                problems.append(Problem("unknown-name", message + hint, place))
        if isinstance(entries, list):
            result[section] = [entry for entry in entries if entry not in names]
        else:
            result[section] = {n: entry for n, entry in dict(entries).items() if n not in names}
    if problems:
        raise RuleFileError(problems)
    for section, entries in over.data.items():
        known = result.get(section)
        if isinstance(entries, dict) and isinstance(known, dict):
            changed = {name: _from_itself(known, name, entry) for name, entry in entries.items()}
            result[section] = {**known, **changed}
        else:
            result[section] = entries
    data = {**result, WITHDRAWN: gone}
    return YamlSource(over.file, data, {**base.places, **over.places})


def _from_itself(known: Mapping[str, Any], name: str, entry: Any) -> Any:
    for word in ("like", "same_as"):
        if isinstance(entry, dict) and entry.get(word) == name and name in known:
            return merged(known[name] or {}, {k: v for k, v in entry.items() if k != word})
    return entry


def _defaults(model: type[Closed]) -> dict[str, Any]:
    return dict(model().model_dump(by_alias=True, exclude_none=False))


def _complete_architectures(table: YamlSource) -> dict[str, Any]:
    rows = table.data["architectures"]
    defaults = _defaults(Architecture)

    def inherited(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
        if name in seen:
            place = table.at(("architectures", name, "like"))
            message = f"'like' of {name} leads back to itself"
            raise RuleFileError([Problem("cyclic-like", message, place)])
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
        **table.data,
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


def _complete_methods(data: Mapping[str, Any]) -> dict[str, Any]:
    rows, defaults = data["methods"], _defaults(Method)
    methods: dict[str, Any] = {}
    for name, row in rows.items():
        base = rows[row["same_as"]] if row and "same_as" in row else {}
        methods[name] = {**defaults, **base, **(row or {})}
        if isinstance(methods[name]["schemes"], str):
            methods[name]["schemes"] = data["schemes"][methods[name]["schemes"]]
    return {"loading": {}, "refuse_requantized": None, **data, "methods": methods}
