"""Measurements as CSV, JSON and Markdown: times, and ratios to the floor and the peers."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

BEST = "best peer"
"""What the fastest peer of a point is called among them."""
PICK = "vLLM's pick"
"""What the kernel that vLLM picks for a point is called among them, where it is one of them."""
LOSS = 0.95
"""A point is lost if the best peer takes less than this share of our time."""


class Point(NamedTuple):
    """What is measured, whoever runs it."""

    scheme: str
    shape: str
    routing: str
    num_tokens: int

    def __str__(self) -> str:
        return f"{self.scheme} {self.shape} {self.routing} M={self.num_tokens}"


@dataclass(frozen=True)
class Measurement:
    """One kernel on one point."""

    scheme: str
    shape: str
    routing: str
    num_tokens: int
    kernel: str
    us: float
    """Under graph replay, inputs rotated."""
    eager_us: float
    """Launched from the host, one input."""
    floor_us: float
    """Bytes over memory bandwidth or products over matrix rate, whichever takes longer."""
    bound: str
    """Which of both: "bytes" or "flops"."""
    gbps: float
    tflops: float
    relative_error: float
    """Against a float32 reference, on a sample of the tokens."""
    call_bytes: int | None = None
    """Device memory that an eager call takes at its peak, its result included; None: not known."""

    @property
    def point(self) -> Point:
        """What is measured, whoever runs it."""
        return Point(self.scheme, self.shape, self.routing, self.num_tokens)


@dataclass(frozen=True)
class Failure:
    """Why a kernel has no time: on one point, or on a whole layer (``num_tokens`` 0)."""

    scheme: str
    shape: str
    routing: str
    num_tokens: int
    kernel: str
    error: str


@dataclass(frozen=True)
class Launch:
    """One launch of a call of one kernel, in order; durations may overlap."""

    scheme: str
    shape: str
    routing: str
    num_tokens: int
    kernel: str
    position: int
    name: str
    us: float


@dataclass(frozen=True)
class Pick:
    """What vLLM selects for a layer on the device of a run, by its rules."""

    scheme: str
    shape: str
    backend: str
    kernel: str


@dataclass
class Results:
    """All that a run found. ``run``: the facts its figures depend on."""

    ours: str
    run: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    declined: list[list[str]] = field(default_factory=list)
    """Scheme, shape and kernel where the kernel does not run such layers."""
    peer_kernels: dict[str, list[str]] = field(default_factory=dict)
    """The kernels of the rules that each peer is."""
    picks: list[Pick] = field(default_factory=list)

    def ratios(self) -> dict[Point, dict[str, float]]:
        """How many times faster ours is than each peer, the BEST of them and vLLM's PICK."""
        found = speedups(self.measurements, self.ours)
        picked = {(pick.scheme, pick.shape): pick.kernel for pick in self.picks}
        for point, row in found.items():
            kernel = picked.get((point.scheme, point.shape))
            same = [row[name] for name in row if kernel in self.peer_kernels.get(name, ())]
            if same:
                row[PICK] = min(same)
        return found

    def settled(self, point: Point, kernel: str) -> bool:
        """Whether the kernel was measured on the point, or is known to fail or decline there."""
        if [point.scheme, point.shape, kernel] in self.declined:
            return True
        if any(m.point == point and m.kernel == kernel for m in self.measurements):
            return True
        return any(
            (f.scheme, f.shape, f.kernel) == (point.scheme, point.shape, kernel)
            and (f.num_tokens == 0 or (f.routing, f.num_tokens) == point[2:])
            for f in self.failures
        )

    def write(self, folder: Path) -> None:
        """Write layers.{csv,json,md}, and launches.csv if there are any."""
        folder.mkdir(parents=True, exist_ok=True)
        _write_csv(folder / "layers.csv", Measurement, self.measurements)
        if self.launches:
            _write_csv(folder / "launches.csv", Launch, self.launches)
        names = ("measurements", "failures", "launches", "picks")
        lists = {name: [asdict(entry) for entry in getattr(self, name)] for name in names}
        plain = {"ours": self.ours, "run": self.run, **lists, "declined": self.declined}
        plain["peer_kernels"] = self.peer_kernels
        (folder / "layers.json").write_text(json.dumps(plain, indent=1))
        (folder / "layers.md").write_text("\n".join(markdown(self)) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Inverse of :meth:`write`. Raises OSError or ValueError."""
        text = (folder / "layers.json").read_bytes()
        from pydantic import TypeAdapter  # runs, and most commands, do without it

        results: Results = TypeAdapter(cls).validate_json(text, strict=True)
        for index, m in enumerate(results.measurements):
            for name, time in (("us", m.us), ("floor_us", m.floor_us)):
                if not 0 < time < math.inf:
                    raise ValueError(f"measurements.{index}.{name}: a time is above 0, not {time}")
            if not 0 <= (m.call_bytes or 0) < 2**63:
                raise ValueError(f"measurements.{index}.call_bytes: no number of bytes")
        return results


def _write_csv(path: Path, kind: type, rows: Sequence[Any]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(kind)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def geometric_mean(values: Iterable[float]) -> float:
    """NaN without values."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def speedups(measurements: Sequence[Measurement], kernel: str) -> dict[Point, dict[str, float]]:
    """How many times faster ``kernel`` is than each other one and the BEST, by point."""
    own = {m.point: m.us for m in measurements if m.kernel == kernel}
    result: dict[Point, dict[str, float]] = {point: {} for point in own}
    for m in measurements:
        if m.kernel != kernel and m.point in own:
            result[m.point][m.kernel] = m.us / own[m.point]
    for ratios in result.values():
        if ratios:
            ratios[BEST] = min(ratios.values())
    return result


def markdown(results: Results) -> Iterator[str]:
    """The lines of a report: facts, a summary per scheme, lost points, every point, failures.

    Columns "x NAME" are ratios of speed: how many times faster ours is than NAME.
    """
    ratios = results.ratios()
    found = {name for row in ratios.values() for name in row}
    peers = sorted(found - {BEST, PICK})
    columns = [*peers, *(name for name in (BEST, PICK) if name in found)]
    picks = {(pick.scheme, pick.shape): pick.backend for pick in results.picks}
    own = sorted((m for m in results.measurements if m.kernel == results.ours), key=_order)
    for name, value in results.run.items():
        yield f"- {name}: {value}"
    yield from _summary(own, ratios, columns)
    lost = [(m.point, row[BEST]) for m in own if (row := ratios[m.point]).get(BEST, 1.0) < LOSS]
    if lost:
        yield from ("", f"Points below {LOSS} of the best peer:", "")
        yield from (f"- {point}: {ratio:.2f}" for point, ratio in lost)
    header = ["scheme", "shape", "routing", "M", "us", "bound", "GB/s", "TFLOPS", "us / floor"]
    header += ["eager us", "error", *(f"x {name}" for name in columns)]
    yield from ("", *_head([*header, "vLLM picks"] if picks else header))
    for m in own:
        cells = [m.scheme, m.shape, m.routing, str(m.num_tokens), f"{m.us:.1f}", m.bound]
        cells += [f"{m.gbps:.0f}", f"{m.tflops:.0f}", f"{m.us / m.floor_us:.2f}"]
        cells += [f"{m.eager_us:.0f}", f"{m.relative_error:.1e}"]
        row = ratios[m.point]
        cells += [f"{row[name]:.2f}" if name in row else "" for name in columns]
        yield _row([*cells, picks.get((m.scheme, m.shape), "")] if picks else cells)
    yield from _memory(results.measurements, [results.ours, *peers])
    if results.failures:
        yield from ("", "Not measured:", "")
        for f in results.failures:
            where = f"{f.scheme} {f.shape}"
            where += f" {f.routing} M={f.num_tokens}" if f.num_tokens else ""
            yield f"- {f.kernel}, {where}: {f.error}"


def _order(m: Measurement) -> tuple[str, str, str, int]:
    return (m.scheme, m.shape, "" if m.routing == "uniform" else m.routing, m.num_tokens)


def _summary(
    own: Sequence[Measurement], ratios: Mapping[Point, Mapping[str, float]], columns: Sequence[str]
) -> Iterator[str]:
    """Per scheme, geometric mean and least of the ratios to every peer, and to the floor."""
    yield ""
    yield from _head(["scheme", "against", "points", "geometric mean", "least", "most"])
    for scheme in dict.fromkeys(m.scheme for m in own):
        points = [m for m in own if m.scheme == scheme]
        floors = [m.us / m.floor_us for m in points]
        values = {
            name: [ratios[m.point][name] for m in points if name in ratios[m.point]]
            for name in columns
        }
        for name, found in {**values, "floor (our time over it)": floors}.items():
            if found:
                mean, least, most = geometric_mean(found), min(found), max(found)
                figures = [f"{mean:.2f}", f"{least:.2f}", f"{most:.2f}"]
                yield _row([scheme, name, str(len(found)), *figures])


def _memory(measurements: Sequence[Measurement], kernels: Sequence[str]) -> Iterator[str]:
    """What a call of each kernel takes beside weights and tokens, where there are most tokens."""
    found = {(m.point, m.kernel): m.call_bytes for m in measurements if m.call_bytes is not None}
    most = max((point.num_tokens for point, _ in found), default=0)
    points = dict.fromkeys(
        m.point for m in sorted(measurements, key=_order) if m.num_tokens == most
    )
    if not found:
        return
    yield from ("", "Memory that a call takes beside weights and tokens, at its peak, in MiB:", "")
    yield from _head(["scheme", "shape", "routing", "M", *kernels])
    for point in points:
        sizes = [found.get((point, kernel)) for kernel in kernels]
        cells = ["" if size is None else f"{size / 2**20:.0f}" for size in sizes]
        yield _row([*map(str, point), *cells])


def _head(cells: Sequence[str]) -> tuple[str, str]:
    return _row(cells), "|" + " --- |" * len(cells)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
