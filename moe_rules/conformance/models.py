"""Compares what is derived from models with what the reference derived, and decides it.

Facts, scheme and refusals are compared by :mod:`moe_rules.conformance.derivations`. Here the
derived layer is decided as well, by our rules on the line's platform, and compared with the
recorded decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_rules.conformance.cases import NAMES, Case, CaseError, files_below
from moe_rules.conformance.compare import Comparer
from moe_rules.conformance.count import Count
from moe_rules.conformance.derivations import (
    DECISIONS,
    Comparison,
    DerivedLine,
    compare_line,
    derived_lines,
    plain_facts,
)
from moe_rules.conformance.run import MAX_SHOWN, Disagreement, disagreement, load_comparer
from moe_rules.models.tables import load_tables


@dataclass
class ModelsResult:
    """Agreement on facts, scheme and refusals (``derived``) and on decisions."""

    derived: Comparison = field(default_factory=lambda: Comparison(shown=MAX_SHOWN))
    decision: Count = field(default_factory=Count)
    disagreements: list[Disagreement] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Everything agrees, and something was compared."""
        compared = any(count.total for count in self.derived.counts.values())
        return compared and self.derived.agrees and self.decision.complete

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Plain form: counts of facts, scheme, decision and refused."""
        counts = {name: count.to_dict() for name, count in self.derived.counts.items()}
        return {**counts, "decision": self.decision.to_dict()}


def run_models(
    directory: Path, oracles: Iterable[str] = (), overlays: Sequence[Path] = ()
) -> ModelsResult:
    """Compare every record below a folder. Raises CaseError and RuleFileError."""
    if not files_below(directory, DECISIONS):
        raise CaseError(f"{directory} holds no decisions/**/{NAMES}")
    result = ModelsResult()
    comparer = load_comparer(overlays)
    try:
        tables = load_tables(overlays=tuple(overlays))
        for line in derived_lines(directory, list(oracles) or None, tables):
            compare_line(line, result.derived)
            if line.record["status"] == "oracle":
                _decide(line, comparer, result)
    except (KeyError, TypeError) as error:
        raise CaseError(f"{directory}: a record is malformed: {error!r}") from error
    except OSError as error:
        raise CaseError(f"{directory}: {error}") from None
    return result


def _decide(line: DerivedLine, comparer: Comparer, result: ModelsResult) -> None:
    """Decide the derived layer, and compare with the recorded decision."""
    recorded = Case.parse(line.record, line.where)
    if recorded.reference_crashed:
        return
    if line.layer is None or line.layer.oracle is None:
        result.decision.add(False)
        return
    case = Case.parse({**_derived(line), "id": line.where}, line.where)
    verdict = comparer.compare(case)
    result.decision.add(verdict.decision)
    if not verdict.decision and len(result.disagreements) < MAX_SHOWN:
        result.disagreements.append(disagreement(case, verdict, comparer))


def _derived(line: DerivedLine) -> dict[str, Any]:
    """The record with everything that we derive in place of what was recorded."""
    layer = line.layer
    assert layer is not None
    keys = {"weight": layer.weight_key, "activation": layer.activation_key}
    return {
        **line.record,
        "oracle": layer.oracle,
        "moe": plain_facts(layer.moe),
        "options": dict(layer.options),
        "runtime": {**line.record["runtime"], **layer.runtime},
        **{name: key and key.to_dict() for name, key in keys.items()},
    }
