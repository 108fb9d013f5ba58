"""Runs case files through the comparison, in parallel, and adds up per oracle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_rules.conformance.cases import read_lines
from moe_rules.conformance.compare import Comparer
from moe_rules.engine.selector import Selector
from moe_rules.ruleset import PLATFORMS, load_platform

MEASURES = ("decision", "candidates", "order")
MAX_SHOWN = 20


@dataclass
class Count:
    """Agreeing cases of those that were compared."""

    agree: int = 0
    total: int = 0

    def add(self, agrees: bool | None) -> None:
        """Count one case, unless it is not compared."""
        if agrees is not None:
            self.total += 1
            self.agree += agrees

    def merge(self, other: Count) -> None:
        """Add another count."""
        self.agree += other.agree
        self.total += other.total

    @property
    def complete(self) -> bool:
        """Every compared case agrees."""
        return self.agree == self.total

    def to_dict(self) -> dict[str, int]:
        """Plain form."""
        return {"agree": self.agree, "total": self.total}


@dataclass
class OracleResult:
    """The counts of one oracle."""

    decision: Count = field(default_factory=Count)
    candidates: Count = field(default_factory=Count)
    order: Count = field(default_factory=Count)
    reference_crashed: int = 0

    def merge(self, other: OracleResult) -> None:
        """Add another result."""
        for name in MEASURES:
            getattr(self, name).merge(getattr(other, name))
        self.reference_crashed += other.reference_crashed

    @property
    def complete(self) -> bool:
        """Every measure agrees on every case."""
        return all(getattr(self, name).complete for name in MEASURES)

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        counts = {name: getattr(self, name).to_dict() for name in MEASURES}
        return {**counts, "reference_crashed": self.reference_crashed}


@dataclass(frozen=True)
class Disagreement:
    """A case on which we differ."""

    id: str
    oracle: str
    platform: str
    notes: tuple[str, ...]
    explanation: str


@dataclass
class Result:
    """Counts per oracle, and the first disagreements."""

    oracles: dict[str, OracleResult] = field(default_factory=dict)
    disagreements: list[Disagreement] = field(default_factory=list)

    def merge(self, other: Result) -> None:
        """Add another result."""
        for name, counts in other.oracles.items():
            self.oracles.setdefault(name, OracleResult()).merge(counts)
        self.disagreements.extend(other.disagreements)
        del self.disagreements[MAX_SHOWN:]

    @property
    def complete(self) -> bool:
        """Everything agrees, and something was compared."""
        return bool(self.oracles) and all(r.complete for r in self.oracles.values())


_comparer: Comparer | None = None


def _start(overlays: Sequence[Path]) -> None:
    """Load the rules once per worker process."""
    global _comparer
    _comparer = Comparer({p: Selector(load_platform(p, overlays), {}) for p in PLATFORMS})


def _run_chunk(cases: list[dict[str, Any]]) -> Result:
    assert _comparer is not None
    result = Result()
    for case in cases:
        verdict = _comparer.compare(case)
        counts = result.oracles.setdefault(case["oracle"], OracleResult())
        counts.decision.add(verdict.decision)
        counts.candidates.add(verdict.candidates)
        counts.order.add(verdict.order)
        counts.reference_crashed += verdict.reference_crashed
        if verdict.notes and len(result.disagreements) < MAX_SHOWN:
            result.disagreements.append(
                Disagreement(
                    case["id"],
                    case["oracle"],
                    case["platform"]["name"],
                    verdict.notes,
                    _explanation(case),
                )
            )
    return result


def _explanation(case: dict[str, Any]) -> str:
    assert _comparer is not None
    try:
        decision = _comparer.decide(case)
    except ValueError as error:
        return str(error)
    return decision.error or repr(decision)


def run_file(path: Path, oracles: frozenset[str], overlays: Sequence[Path]) -> Result:
    """Compare all cases of one file (of the given oracles, if any are given)."""
    if _comparer is None:
        _start(overlays)
    cases = (case for case in read_lines(path) if not oracles or case["oracle"] in oracles)
    return _run_chunk(list(cases))


def run_files(
    paths: Iterable[Path],
    oracles: Iterable[str] = (),
    overlays: Sequence[Path] = (),
    progress: Callable[[Path], None] = lambda path: None,
) -> Result:
    """Compare all cases of the files. Raises CaseError and RuleFileError."""
    result = Result()
    wanted = frozenset(oracles)
    # Large files first, so that the last worker does not finish long after the others.
    ordered = sorted(paths, key=lambda path: path.stat().st_size, reverse=True)
    workers = min(os.cpu_count() or 1, len(ordered))
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(tuple(overlays),)) as pool:
        jobs = [(path, pool.submit(run_file, path, wanted, overlays)) for path in ordered]
        for path, job in jobs:
            result.merge(job.result())
            progress(path)
    result.oracles = dict(sorted(result.oracles.items()))
    return result
