"""Measure the CPU experts on whole MoE layers: ``python -m benchmarks.cpu_experts --help``.

Hidden states, topk ids and weights in, output out, no router; weights not in the cache. Times
depend on what else the machine does, so what counts are the ratios of calls that ran one after
the other. On a machine shared with others, run with OMP_WAIT_POLICY=PASSIVE: threads that spin
while another is off the CPU lose whole time slices. Where others take most of it, ``--clock cpu``
leaves out what they take.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from moe_kernels.benchmark.layers import draw_workload, first_tokens
from moe_kernels.benchmark.peers import Run
from moe_kernels.benchmark.report import geometric_mean
from moe_kernels.benchmark.shapes import ROUTINGS, Scheme, Shape, cost
from moe_kernels.reference import relative_error
from moe_kernels.testing import RandomLayer, random_layer

from benchmarks.cpu_peers import OURS, PEERS
from benchmarks.cpu_timing import Call, Ceilings, Clock, Ratio, interleaved, ratio
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

TOKENS = (1, 4, 16, 64, 256, 1024)

SHAPES: Mapping[str, Shape] = {
    "qwen3-30b-a3b": Shape(128, 8, 2048, 768),
    "mixtral-8x7b-tp4": Shape(8, 2, 4096, 3584),
    "gpt-oss-reduced": Shape(16, 4, 2880, 2880),
}
"""Layers that fit a small machine: Mixtral's as one of four ranks has it, gpt-oss-120b's with 16
of its 128 experts."""

BLOCK = NAMED_KEYS["kFp8Static128BlockSym"]
SCHEMES: Mapping[str, tuple[str, Scheme]] = {
    "bf16": ("bf16", Scheme(None, None, 2.0, "bf16_gflops")),
    "fp16": ("fp16", Scheme(None, None, 2.0, "fp32_gflops")),
    "fp32": ("fp32", Scheme(None, None, 4.0, "fp32_gflops")),
    "fp8_w8a16": ("bf16", Scheme(BLOCK, None, 1 + 4 / 128**2, "bf16_gflops")),
    "fp8_w8a8": (
        "bf16",
        Scheme(BLOCK, NAMED_KEYS["kFp8Dynamic128Sym"], 1 + 4 / 128**2, "bf16_gflops"),
    ),
    "int8_w8a8": (
        "bf16",
        Scheme(
            NAMED_KEYS["kInt8StaticChannelSym"],
            NAMED_KEYS["kInt8DynamicTokenSym"],
            1.0,
            "int8_gflops",
        ),
    ),
    "int4_w4a16": (
        "bf16",
        Scheme(NAMED_KEYS["kInt4Static32"], None, 1 / 2 + 2 / 32, "bf16_gflops"),
    ),
    "mxfp4_w4a16": ("bf16", Scheme(NAMED_KEYS["kMxfp4Static"], None, 17 / 32, "bf16_gflops")),
}
"""The layer's dtype and its scheme; fp16 is bounded by float32 products, which lose nothing."""

CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}

CHECKED_TOKENS = 16

PEER_ERROR = 5e-2
"""The largest error of a peer: above what it costs to quantize activations, which peers do not."""


@dataclass
class Point:
    """What was measured on one layer and number of tokens."""

    scheme: str
    shape: str
    routing: str
    num_tokens: int
    gigabytes: float
    """Weights of the active experts, once, and tokens in and out."""
    gigaflop: float
    matrix_rate: str
    milliseconds: dict[str, float]
    """Medians by kernel."""
    best_milliseconds: dict[str, float]
    errors: dict[str, float]
    ratios: dict[str, dict[str, Ratio]]
    """By kernel of ours, the time of each of the others to it."""

    def floor_ms(self, ceilings: Mapping[str, float]) -> float:
        """The time that bytes or products take at the rates measured, whichever is longer."""
        gbps = max(ceilings["copy_gbps"], ceilings["read_gbps"])
        # float32 loses nothing, and may be the faster one.
        gflops = max(ceilings.get(self.matrix_rate, 0.0), ceilings["fp32_gflops"])
        return 1e3 * max(self.gigabytes / gbps, self.gigaflop / gflops)


def runs_for(layer: RandomLayer, kernels: list[str]) -> dict[str, Run]:
    """The kernels that take the layer."""
    runs = {name: PEERS[name](layer) for name in kernels}
    return {name: run for name, run in runs.items() if run is not None}


def measure_point(
    layer: RandomLayer,
    runs: dict[str, Run],
    shape: Shape,
    scheme: tuple[str, Scheme],
    names: tuple[str, str, str],
    num_tokens: int,
    ceilings: Ceilings,
    args: argparse.Namespace,
) -> Point:
    """Check every kernel, then time them."""
    work = draw_workload(
        layer, shape, scheme[1], num_tokens, names[2], 3, args.seed + num_tokens
    ).inputs
    sample = first_tokens(work[0], CHECKED_TOKENS)
    expected = sample.reference(dtype=torch.float32)
    calls: dict[str, list[Call]] = {}
    errors: dict[str, float] = {}
    for name, run in runs.items():
        try:
            errors[name] = relative_error(run(work[0])[: len(expected)], expected)
        except MemoryError:
            continue
        # Others round routing weights to the layer's dtype, sum in it, and leave activations as
        # they are.
        limit = PEER_ERROR if name not in OURS else sample.error_bound()
        if not errors[name] <= limit:
            print(f"WRONG: {name} {names} M={num_tokens}: error {errors[name]:.1e} > {limit:.1e}")
            continue
        calls[name] = [partial(run, tokens) for tokens in work]
    ceilings.probe()
    times = interleaved(calls, ceilings.evict, args.budget, CLOCKS[args.clock])
    ceilings.probe()
    costs = [cost(shape, scheme[1], tokens.topk_ids) for tokens in work]
    return Point(
        *names,
        num_tokens,
        statistics.mean(c.bytes for c in costs) * 1e-9,
        statistics.mean(c.flops for c in costs) * 1e-9,
        scheme[1].matrix_rate,
        {name: statistics.median(t) * 1e3 for name, t in times.items()},
        {name: min(t) * 1e3 for name, t in times.items()},
        errors,
        {
            own: {name: ratio(t, times[own]) for name, t in times.items() if name not in OURS}
            for own in OURS
            if own in times
        },
    )


def rows(point: Point, peers: list[str], run: Mapping[str, float]) -> list[str]:
    """The point's lines of the table, one per kernel of ours."""
    lines = []
    for own, ratios in point.ratios.items():
        best = point.best_milliseconds[own]
        cells = [point.scheme, point.shape, point.routing, str(point.num_tokens), own]
        cells += [f"{point.milliseconds[own]:.1f}", f"{best:.1f}"]
        cells += [f"{best / point.floor_ms(run):.2f}", f"{point.errors[own]:.1e}"]
        for name in peers:
            r = ratios.get(name)
            cells.append("" if r is None else f"{r.median:.2f} ({r.low:.2f}-{r.high:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def summary(points: list[Point], peers: list[str], run: Mapping[str, float]) -> list[str]:
    """Geometric means over a scheme's points, one line per kernel of ours and peer."""
    lines = []
    for own in OURS:
        measured = [p for p in points if own in p.ratios]
        columns: dict[str, list[float]] = {
            name: [p.ratios[own][name].median for p in measured if name in p.ratios[own]]
            for name in peers
        }
        columns["fastest of the others"] = [
            min(r.median for r in p.ratios[own].values()) for p in measured if p.ratios[own]
        ]
        columns["floor (best time over it)"] = [
            p.best_milliseconds[own] / p.floor_ms(run) for p in measured
        ]
        for name, values in columns.items():
            if values:
                mean = f"{geometric_mean(values):.2f} | {min(values):.2f} | {max(values):.2f}"
                lines.append(f"| {points[0].scheme} | {own} | {name} | {len(values)} | {mean} |")
    return lines


def markdown(points: list[Point], run: dict[str, Any]) -> str:
    """A row per point and kernel of ours, and the geometric mean of the ratios per scheme."""
    seen = {name for p in points for ratios in p.ratios.values() for name in ratios}
    peers = [name for name in PEERS if name in seen]
    header = ["scheme", "shape", "routing", "M", "kernel", "ms", "best ms", "best / floor"]
    header += ["error", *(f"{name} / ours (quartiles)" for name in peers)]
    lines = [", ".join(f"{name} {value}" for name, value in run.items()), ""]
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for point in points:
        lines += rows(point, peers, run)
    lines += ["", "| scheme | kernel | against | points | geometric mean | least | most |"]
    lines.append("|" + " --- |" * 7)
    for scheme in dict.fromkeys(p.scheme for p in points):
        lines += summary([p for p in points if p.scheme == scheme], peers, run)
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_experts", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=["bf16"])
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--routings", nargs="+", choices=ROUTINGS, default=["uniform"])
    parser.add_argument("--kernels", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--threads", type=int, help="of torch; default: its own")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of all threads")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds per point, at least")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    return parser.parse_args()


def version_of(package: str) -> str:
    """The version of ``package``, or that there was none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's name, or only its architecture where Linux does not tell."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    run: dict[str, Any] = {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": os.environ.get("ONEDNN_MAX_CPU_ISA", "whatever it finds"),
        "threads": torch.get_num_threads(),
        "clock": args.clock,
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "default"),
        "torch": torch.__version__,
        "llvmlite": version_of("llvmlite"),
        "transformers": version_of("transformers"),
        "python": platform.python_version(),
        "seed": args.seed,
    }
    points: list[Point] = []
    ceilings = Ceilings()
    with torch.no_grad():
        for scheme_name, shape_name in itertools.product(args.schemes, args.shapes):
            (in_dtype, scheme), shape = SCHEMES[scheme_name], SHAPES[shape_name]
            config = replace(shape.moe_config(), in_dtype=in_dtype)
            keys = scheme.weight_key, scheme.activation_key
            layer = random_layer(config, *keys, num_tokens=1, seed=args.seed)
            runs = runs_for(layer, args.kernels)
            for routing, num_tokens in itertools.product(args.routings, args.tokens):
                names = scheme_name, shape_name, routing
                scheme_pair = in_dtype, scheme
                points.append(
                    measure_point(
                        layer, runs, shape, scheme_pair, names, num_tokens, ceilings, args
                    )
                )
                run |= {name: round(value, 1) for name, value in ceilings.best.items()}
                write(points, run, args.out)
                print("\n".join(rows(points[-1], list(PEERS), run)), flush=True)
            del layer, runs
    print((args.out / "cpu_experts.md").read_text())


def write(points: list[Point], run: dict[str, Any], folder: Path) -> None:
    """Write cpu_experts.json and cpu_experts.md."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"run": run, "points": [asdict(p) for p in points]}
    (folder / "cpu_experts.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "cpu_experts.md").write_text(markdown(points, run))


if __name__ == "__main__":
    main()
