"""Measurements as CSV, JSON and a Markdown table of ratios."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


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

    @property
    def point(self) -> tuple[str, str, str, int]:
        """What is measured, whoever runs it."""
        return self.scheme, self.shape, self.routing, self.num_tokens


def geometric_mean(values: Iterable[float]) -> float:
    """NaN without values."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def speedups(
    measurements: Sequence[Measurement], kernel: str
) -> dict[tuple[str, str, str, int], dict[str, float]]:
    """How many times faster ``kernel`` is than each other one, by point."""
    own = {m.point: m.us for m in measurements if m.kernel == kernel}
    result: dict[tuple[str, str, str, int], dict[str, float]] = {point: {} for point in own}
    for m in measurements:
        if m.kernel != kernel and m.point in own:
            result[m.point][m.kernel] = m.us / own[m.point]
    return result


def markdown(measurements: Sequence[Measurement], kernel: str, run: dict[str, Any]) -> str:
    """A row per point of ``kernel``: time, ratio to the floor, speedup over every other kernel."""
    ratios = speedups(measurements, kernel)
    others = sorted({name for row in ratios.values() for name in row})
    own = [m for m in measurements if m.kernel == kernel]
    lines = [", ".join(f"{name} {value}" for name, value in run.items()), ""]
    header = ["scheme", "shape", "routing", "M", "us", "bound", "GB/s", "TFLOPS", "us / floor"]
    header += ["eager us", "error", *(f"x {name}" for name in others)]
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for m in own:
        cells = [m.scheme, m.shape, m.routing, str(m.num_tokens), f"{m.us:.1f}", m.bound]
        cells += [f"{m.gbps:.0f}", f"{m.tflops:.0f}", f"{m.us / m.floor_us:.2f}"]
        cells += [f"{m.eager_us:.0f}", f"{m.relative_error:.1e}"]
        row = ratios[m.point]
        cells += [f"{row[name]:.2f}" if name in row else "" for name in others]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| scheme | against | points | geometric mean | least |", "|" + " --- |" * 5]
    for scheme in dict.fromkeys(m.scheme for m in own):
        for name in others:
            values = [r[name] for p, r in ratios.items() if p[0] == scheme and name in r]
            if values:
                mean = f"{geometric_mean(values):.2f} | {min(values):.2f}"
                lines.append(f"| {scheme} | {name} | {len(values)} | {mean} |")
        floors = [m.us / m.floor_us for m in own if m.scheme == scheme]
        mean = f"{geometric_mean(floors):.2f} | {min(floors):.2f}"
        lines.append(f"| {scheme} | floor (time over it) | {len(floors)} | {mean} |")
    return "\n".join(lines) + "\n"


def write(
    measurements: Sequence[Measurement], kernel: str, run: dict[str, Any], folder: Path
) -> None:
    """Write layers.csv, layers.json (with the facts of the ``run``) and layers.md."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(m) for m in measurements]
    with (folder / "layers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Measurement)])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "layers.json").write_text(json.dumps({"run": run, "measurements": rows}, indent=1))
    (folder / "layers.md").write_text(markdown(measurements, kernel, run))
