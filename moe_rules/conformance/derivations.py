"""Agreement of :func:`derive_layers` with recorded derivations of vLLM.

A directory holds ``<model>.json`` files (``config`` and, where there are, ``hf_quant_config`` and
``vllm_args``) and, below it, ``decisions/**/*.jsonl.gz`` with one record per line: what vLLM
derived for one kind of MoE layer of a model on a platform and deployment, or why it refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_rules.conformance.cases import files_below, platform_facts, read_lines, recorded_key
from moe_rules.conformance.count import Count
from moe_rules.models.deployment import Deployment
from moe_rules.models.derive import ModelLayer, derive_layers
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.tables import Tables
from moe_rules.vocabulary.layer import FusedMoEConfig

DECISIONS = "decisions/**"
"""The folders of records below that of the models."""
WHATS = ("facts", "scheme", "refused")
_SITUATION = ("platform", "software", "deployment", "env")


@dataclass
class Comparison:
    """Agreement on facts, scheme and refusals, with the first disagreements in words."""

    counts: dict[str, Count] = field(default_factory=lambda: {what: Count() for what in WHATS})
    disagreements: list[str] = field(default_factory=list)
    shown: int = 20

    def add(self, what: str, differences: list[str], where: str) -> None:
        """Count one comparison; no difference is agreement."""
        self.counts[what].add(not differences)
        if differences and len(self.disagreements) < self.shown:
            self.disagreements.append(f"{where}: {what}: {'; '.join(differences)}")

    @property
    def agrees(self) -> bool:
        """Whether nothing disagrees."""
        return all(one.complete for one in self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain form: ``{"models": {"facts": {"agree": .., "total": ..}, ...}}``."""
        return {"models": {what: one.to_dict() for what, one in self.counts.items()}}


@dataclass(frozen=True)
class DerivedLine:
    """A record and what was derived for it: a layer, or the error that refused the checkpoint.

    ``layer`` is None if no derived layer has the record's index; ``refusal`` is any exception.
    """

    record: Mapping[str, Any]
    layer: ModelLayer | None
    refusal: Exception | None
    where: str


def derived_lines(
    directory: Path, oracles: list[str] | None = None, tables: Tables | None = None
) -> Iterator[DerivedLine]:
    """Every record below ``directory`` with what is derived for it.

    ``oracles`` keeps the records of those oracles; refused and oracle-less ones belong to none.
    ``tables`` are the packaged ones if absent.
    """
    models: dict[str, Any] = {}
    for path in files_below(directory, DECISIONS):
        derived: dict[str, list[ModelLayer] | Exception] = {}
        for number, record in read_lines(path):
            if oracles and record.get("oracle") not in oracles:
                continue
            name = record["model"]
            if name not in models:
                models[name] = json.loads((directory / f"{name}.json").read_bytes())
            where = f"{path.name}:{number}"
            yield _derived_line(record, models[name], derived, where, tables)


def _derived_line(
    record: Mapping[str, Any],
    model: Mapping[str, Any],
    derived: dict[str, list[ModelLayer] | Exception],
    place: str,
    tables: Tables | None,
) -> DerivedLine:
    """The record's layer; a model is derived once for each platform and deployment."""
    key = json.dumps([record["model"], *(record.get(name) for name in _SITUATION)])
    if key not in derived:
        derived[key] = _derive(record, model, tables)
    found = derived[key]
    names = (record["model"], record["platform"]["name"], record["deployment"]["name"])
    where = " ".join((place, *names))
    if isinstance(found, Exception):
        return DerivedLine(record, None, found, where)
    return DerivedLine(record, _layer_of(record, found), None, where)


def _derive(
    record: Mapping[str, Any], model: Mapping[str, Any], tables: Tables | None
) -> list[ModelLayer] | Exception:
    facts = {**platform_facts(record["platform"]), **(record.get("software") or {})}
    arguments = {**record["deployment"], **model.get("vllm_args", {})}
    deployment = Deployment.from_dict({**arguments, "env": record.get("env") or {}})
    try:
        return derive_layers(
            model["config"],
            facts,
            deployment,
            hf_quant_config=model.get("hf_quant_config"),
            tables=tables,
        )
    except ValueError as error:
        return error


def _layer_of(record: Mapping[str, Any], layers: list[ModelLayer]) -> ModelLayer | None:
    """The derived layer with the index of the record's module path."""
    parts = str(record.get("layer", "")).split(".")
    index = next((int(part) for part in parts if part.isdigit()), None)
    return next((one for one in layers if index is None or index in one.layers), None)


def compare_line(line: DerivedLine, comparison: Comparison) -> None:
    """Add one line: facts of every recorded layer, scheme of an oracle's, reason of a refusal."""
    record = line.record
    if "moe" in record:
        comparison.add("facts", _fact_differences(record["moe"], line), line.where)
    if record["status"] == "oracle":
        comparison.add("scheme", _scheme_differences(record, line), line.where)
    else:
        comparison.add("refused", _refusal_differences(record, line), line.where)


def _fact_differences(recorded: Mapping[str, Any], line: DerivedLine) -> list[str]:
    moe = line.layer.moe if line.layer else getattr(line.refusal, "layer", None)
    if moe is None:
        return [_absent(line)]
    ours = plain_facts(moe)
    theirs = dict(recorded)
    if theirs.get("intermediate_size_per_partition_unpadded") is None:
        unpadded = theirs["intermediate_size_per_partition"]
        theirs["intermediate_size_per_partition_unpadded"] = unpadded
    return [
        f"{name}: ours {ours.get(name)!r}, recorded {value!r}"
        for name, value in theirs.items()
        if ours.get(name) != value
    ]


def plain_facts(moe: FusedMoEConfig) -> dict[str, Any]:
    """The layer's fields as a record writes them."""
    facts = {**vars(moe)}
    parallel = facts.pop("moe_parallel_config")
    return {**facts, "parallel": {**vars(parallel)}}


def _scheme_differences(record: Mapping[str, Any], line: DerivedLine) -> list[str]:
    if line.layer is None:
        return [_absent(line)]
    ours = {
        "oracle": line.layer.oracle,
        "weight": line.layer.weight_key,
        "activation": line.layer.activation_key,
        "options": dict(line.layer.options),
    }
    theirs = {
        "oracle": record["oracle"],
        "weight": recorded_key(record["weight"]),
        "activation": recorded_key(record["activation"]),
        "options": record["options"],
    }
    return [
        f"{name}: ours {ours[name]}, recorded {value}"
        for name, value in theirs.items()
        if ours[name] != value
    ]


def _refusal_differences(record: Mapping[str, Any], line: DerivedLine) -> list[str]:
    """Where the reference refuses or asks no oracle, ours says so with a reason."""
    if record["status"] == "refused":
        if isinstance(line.refusal, CheckpointRefusedError) and str(line.refusal):
            return []
        ours = line.refusal or (line.layer and f"oracle {line.layer.oracle}")
        recorded = record["refused"]
        return [f"ours {ours}, recorded refused ({recorded['error_message'][:120]})"]
    if line.layer is not None and line.layer.oracle is None and line.layer.notes:
        return []
    return [
        f"ours {_absent(line) if line.layer is None else line.layer.oracle}, recorded no oracle"
    ]


def _absent(line: DerivedLine) -> str:
    return f"ours refused: {line.refusal}" if line.refusal else "ours has no such MoE layer"
