"""A plot per shape: time over tokens, ours and the peers', against the floor."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_kernels.benchmark.report import Measurement

ROUTING = "uniform"
"""The routing that is plotted."""


def write_plots(measurements: Sequence[Measurement], ours: str, folder: Path) -> list[Path]:
    """Write ``SHAPE.png`` with a panel per scheme; nothing where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    from matplotlib.figure import Figure

    plotted = [m for m in measurements if m.routing == ROUTING]
    paths = []
    for shape in dict.fromkeys(m.shape for m in plotted):
        of_shape = [m for m in plotted if m.shape == shape]
        schemes = list(dict.fromkeys(m.scheme for m in of_shape))
        columns = min(3, len(schemes))
        rows = -(-len(schemes) // columns)
        figure = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
        figure.suptitle(f"{shape}: microseconds over tokens")
        for i, scheme in enumerate(schemes):
            axes = figure.add_subplot(rows, columns, i + 1)
            axes.set(title=scheme, xscale="log", yscale="log")
            axes.set_xscale("log", base=2)
            of_scheme = [m for m in of_shape if m.scheme == scheme]
            floor = sorted({(m.num_tokens, m.floor_us) for m in of_scheme})
            axes.plot(*zip(*floor, strict=True), color="black", linestyle="--", label="floor")
            for kernel in sorted({m.kernel for m in of_scheme}, key=lambda k: (k != ours, k)):
                line = sorted((m.num_tokens, m.us) for m in of_scheme if m.kernel == kernel)
                width = 2.5 if kernel == ours else 1.2
                axes.plot(*zip(*line, strict=True), marker=".", linewidth=width, label=kernel)
            axes.legend(fontsize="small")
        path = folder / f"{shape}.png"
        figure.savefig(path, dpi=110)
        paths.append(path)
    return paths
