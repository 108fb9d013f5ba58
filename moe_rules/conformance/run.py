"""Runs case files through the comparison, in parallel, and adds up per oracle."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moe_rules.conformance.cases import Case, read_cases
from moe_rules.conformance.compare import Comparer, Verdict, reference_explanation
from moe_rules.conformance.count import Count
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.table_names import PLATFORMS

MEASURES = ("decision", "candidates", "order")
MAX_SHOWN = 20


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
    """A case on which we differ, with both explanations in lines."""

    id: str
    oracle: str
    platform: str
    notes: tuple[str, ...]
    reference: tuple[str, ...]
    ours: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


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

    def add(self, case: Case, verdict: Verdict, comparer: Comparer) -> None:
        """Count one case, and keep it if it disagrees."""
        counts = self.oracles.get(case.oracle)
        if counts is None:
            counts = self.oracles[case.oracle] = OracleResult()
        counts.decision.add(verdict.decision)
        counts.candidates.add(verdict.candidates)
        counts.order.add(verdict.order)
        counts.reference_crashed += case.reference_crashed
        if verdict.notes and len(self.disagreements) < MAX_SHOWN:
            self.disagreements.append(disagreement(case, verdict, comparer))


def disagreement(case: Case, verdict: Verdict, comparer: Comparer) -> Disagreement:
    """A case on which we differ, explained from both sides."""
    return Disagreement(
        case.id,
        case.oracle,
        case.platform_name,
        verdict.notes,
        reference_explanation(case.expect),
        comparer.explanation(case),
    )


def load_comparer(overlays: Sequence[Path] = ()) -> Comparer:
    """A comparer with the rules of every platform. Raises RuleFileError."""
    return Comparer({platform: load_platform(platform, overlays) for platform in PLATFORMS})


def run_file(path: Path, oracles: frozenset[str], comparer: Comparer) -> Result:
    """Compare the cases of one file (of the given oracles, if any are given)."""
    result = Result()
    for case in read_cases(path, oracles):
        result.add(case, comparer.compare(case), comparer)
    return result


@contextmanager
def _uncollected() -> Iterator[None]:
    """Nothing of a case refers to itself, and what is kept of many would be looked at again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


_comparer: Comparer | None = None
"""The comparer of a worker process."""


def _start_worker(overlays: Sequence[Path]) -> None:
    global _comparer
    # An interrupt is the parent's to handle: it ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # see _uncollected
    _comparer = load_comparer(overlays)


def _work(path: Path, oracles: frozenset[str]) -> Result:
    assert _comparer is not None
    return run_file(path, oracles, _comparer)


def run_files(
    paths: Iterable[Path],
    oracles: Iterable[str] = (),
    overlays: Sequence[Path] = (),
    progress: Callable[[Path], None] = lambda path: None,
) -> Result:
    """Compare the cases of all files, several at a time. Raises CaseError and RuleFileError."""
    result = Result()
    wanted = frozenset(oracles)
    # Large files first, so that the last worker does not finish long after the others.
    ordered = sorted(paths, key=lambda path: path.stat().st_size, reverse=True)
    workers = min(os.cpu_count() or 1, len(ordered))
    # Rules that cannot be loaded end a worker without a word, so they are loaded here first.
    comparer = load_comparer(overlays)
    if workers == 1:
        with _uncollected():
            for path in ordered:
                result.merge(run_file(path, wanted, comparer))
                progress(path)
    else:
        with ProcessPoolExecutor(
            workers, initializer=_start_worker, initargs=(tuple(overlays),)
        ) as pool:
            jobs = {pool.submit(_work, path, wanted): path for path in ordered}
            try:
                for job in as_completed(jobs):
                    result.merge(job.result())
                    progress(jobs[job])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    result.oracles = dict(sorted(result.oracles.items()))
    result.disagreements.sort(key=lambda d: (d.oracle, d.platform, d.id))
    return result
