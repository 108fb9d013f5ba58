"""Measure the CPU experts on whole MoE layers: ``python -m benchmarks.cpu_experts --help``.

Hidden states, topk ids and weights in, output out, no router; weights not in the cache. Times
depend on what else the machine does, so what counts are the ratios of calls that ran one after
the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from moe_kernels.reference import relative_error
from moe_kernels.testing import RandomLayer, random_layer

from benchmarks.cpu_peers import PEERS
from benchmarks.cpu_timing import Call, Ceilings, Ratio, interleaved, ratio
from benchmarks.layers import draw_workload, first_tokens
from benchmarks.peers import Run
from benchmarks.report import geometric_mean
from benchmarks.shapes import ROUTINGS, Scheme, Shape, cost
from moe_rules.quant_keys import NAMED_KEYS

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
}
"""The layer's dtype and its scheme; fp16 is bounded by float32 products, which lose nothing."""

OURS = next(iter(PEERS))
CHECKED_TOKENS = 16


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
    ratios: dict[str, Ratio]
    """Each other kernel's time to ours."""

    def floor_ms(self, ceilings: Mapping[str, float]) -> float:
        """The time that bytes or products take at the rates measured, whichever is longer."""
        gbps = max(ceilings["copy_gbps"], ceilings["read_gbps"])
        return 1e3 * max(self.gigabytes / gbps, self.gigaflop / ceilings[self.matrix_rate])


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
        # Others round routing weights to the layer's dtype, and sum in it.
        limit = sample.error_bound() * (1 if name == OURS else 2)
        if not errors[name] <= limit:
            print(f"WRONG: {name} {names} M={num_tokens}: error {errors[name]:.1e} > {limit:.1e}")
            continue
        calls[name] = [partial(run, tokens) for tokens in work]
    ceilings.probe()
    times = interleaved(calls, ceilings.evict, args.budget)
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
        {name: ratio(t, times[OURS]) for name, t in times.items() if name != OURS},
    )


def markdown(points: list[Point], run: dict[str, Any]) -> str:
    """A row per point, and the geometric mean of the ratios per scheme."""
    others = [name for name in PEERS if any(name in p.ratios for p in points)]
    lines = [", ".join(f"{name} {value}" for name, value in run.items()), ""]
    header = ["scheme", "shape", "routing", "M", "ms", "best ms", "best / floor", "error"]
    header += [f"{name} / ours (quartiles)" for name in others]
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for p in points:
        best = p.best_milliseconds[OURS]
        cells = [p.scheme, p.shape, p.routing, str(p.num_tokens)]
        cells += [f"{p.milliseconds[OURS]:.1f}", f"{best:.1f}", f"{best / p.floor_ms(run):.2f}"]
        cells.append(f"{p.errors[OURS]:.1e}")
        for name in others:
            r = p.ratios.get(name)
            cells.append("" if r is None else f"{r.median:.2f} ({r.low:.2f}-{r.high:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| scheme | against | points | geometric mean | least |", "|" + " --- |" * 5]
    for scheme in dict.fromkeys(p.scheme for p in points):
        own = [p for p in points if p.scheme == scheme]
        for name in others:
            values = [p.ratios[name].median for p in own if name in p.ratios]
            if values:
                mean = f"{geometric_mean(values):.2f} | {min(values):.2f}"
                lines.append(f"| {scheme} | {name} | {len(values)} | {mean} |")
        best_peer = [min(r.median for r in p.ratios.values()) for p in own if p.ratios]
        if best_peer:
            mean = f"{geometric_mean(best_peer):.2f} | {min(best_peer):.2f}"
            lines.append(f"| {scheme} | best of the others | {len(best_peer)} | {mean} |")
        floors = [p.best_milliseconds[OURS] / p.floor_ms(run) for p in own]
        mean = f"{geometric_mean(floors):.2f} | {min(floors):.2f}"
        lines.append(f"| {scheme} | floor (best time over it) | {len(floors)} | {mean} |")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_experts", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=["bf16"])
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--routings", nargs="+", choices=ROUTINGS, default=["uniform"])
    parser.add_argument("--kernels", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--threads", type=int, help="of torch; default: its own")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds per point, at least")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    run: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": args.seed,
    }
    points: list[Point] = []
    ceilings = Ceilings()
    kernels = [OURS, *(name for name in args.kernels if name != OURS)]
    with torch.no_grad():
        for scheme_name, shape_name in itertools.product(args.schemes, args.shapes):
            (in_dtype, scheme), shape = SCHEMES[scheme_name], SHAPES[shape_name]
            config = replace(shape.moe_config(), in_dtype=in_dtype)
            keys = scheme.weight_key, scheme.activation_key
            layer = random_layer(config, *keys, num_tokens=1, seed=args.seed)
            runs = runs_for(layer, kernels)
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
                print(markdown(points[-1:], run).splitlines()[4], flush=True)
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
