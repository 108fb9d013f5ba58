"""Measure whole MoE layers: hidden states, topk ids and weights in; output out; no router."""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch

from moe_kernels.benchmark.layers import draw_layer, draw_workload, first_tokens, rotations
from moe_kernels.benchmark.peers import PEERS, Run
from moe_kernels.benchmark.report import Measurement, write
from moe_kernels.benchmark.shapes import ROUTINGS, SCHEMES, SHAPES, TOKENS, cost
from moe_kernels.benchmark.timing import ceilings, device_facts, eager_us, graph_us
from moe_kernels.reference import relative_error
from moe_kernels.testing import RandomLayer

OURS = next(iter(PEERS))
CHECKED_TOKENS = 48
"""Rows of the output that are compared with the reference; others do not influence them."""


def arguments() -> argparse.Namespace:
    """The options of a run."""
    parser = argparse.ArgumentParser(prog="python -m moe_kernels.benchmark", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=["bf16", "fp8_block"])
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--routings", nargs="+", choices=ROUTINGS, default=list(ROUTINGS))
    parser.add_argument("--kernels", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--seconds", type=float, help="start no layer after so many")
    parser.add_argument(
        "--dry-run", action="store_true", help="run everything once, so that it is compiled"
    )
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    return parser.parse_args()


def output_error(run: Run, layer: RandomLayer, expected: torch.Tensor) -> float:
    """The error of ``run`` on the first tokens of ``layer``, its outputs poisoned before."""
    poison = torch.full((64 << 20,), float("nan"), device=expected.device)
    del poison
    return relative_error(run(layer)[: len(expected)], expected)


def dry_run(args: argparse.Namespace) -> None:
    """Run every kernel on every point once. Several such processes fill Triton's cache faster."""
    for scheme_name, shape_name in itertools.product(args.schemes, args.shapes):
        shape, scheme = SHAPES[shape_name], SCHEMES[scheme_name]
        layer = draw_layer(shape, scheme, args.seed)
        runs = {name: PEERS[name](layer) for name in args.kernels}
        for routing, num_tokens in itertools.product(args.routings, args.tokens):
            work = draw_workload(layer, shape, scheme, num_tokens, routing, 1, args.seed)
            for function in runs.values():
                if function is not None:
                    function(work.inputs[0])
        torch.cuda.synchronize()


def measure(args: argparse.Namespace, run: dict[str, Any]) -> list[Measurement]:
    """Check and time every kernel on every point."""
    results: list[Measurement] = []
    start = time.monotonic()
    for scheme_name, shape_name in itertools.product(args.schemes, args.shapes):
        shape, scheme = SHAPES[shape_name], SCHEMES[scheme_name]
        if args.seconds and time.monotonic() - start > args.seconds:
            print(f"no time left for {scheme_name} {shape_name}")
            continue
        layer = draw_layer(shape, scheme, args.seed)
        runs = {name: PEERS[name](layer) for name in args.kernels}
        weights_bytes = shape.local_experts * 3.0 * shape.hidden * shape.intermediate * 2
        for routing, num_tokens in itertools.product(args.routings, args.tokens):
            count = rotations(num_tokens, weights_bytes)
            seed = args.seed + num_tokens
            work = draw_workload(layer, shape, scheme, num_tokens, routing, count, seed)
            costs = [cost(shape, scheme, tokens.topk_ids) for tokens in work.inputs]
            gb = sum(c.bytes for c in costs) / count * 1e-9
            tflop = sum(c.flops for c in costs) / count * 1e-12
            tflops = run.get(scheme.matrix_rate, run["bf16_tflops"])
            gbps = max(run["copy_gbps"], run["read_gbps"])
            floor = sum(c.floor_us(gbps, tflops) for c in costs) / count
            bound = "bytes" if gb / gbps > tflop / tflops else "flops"
            sample = first_tokens(work.inputs[0], CHECKED_TOKENS)
            expected = sample.reference(dtype=torch.float32)
            for name, function in runs.items():
                if function is None:
                    continue
                error = output_error(function, work.inputs[0], expected)
                limit = sample.error_bound()
                if not error <= limit:
                    print(f"WRONG: {name} {scheme_name} {shape_name} M={num_tokens}: {error:.1e}")
                    continue
                calls = [lambda f=function, t=tokens: f(t) for tokens in work.inputs]
                us = graph_us(calls)
                eager = eager_us(calls[0], 20 if num_tokens < 4096 else 3)
                results.append(
                    Measurement(
                        scheme_name,
                        shape_name,
                        routing,
                        num_tokens,
                        name,
                        us,
                        eager,
                        floor,
                        bound,
                        gb / us * 1e6,
                        tflop / us * 1e6,
                        error,
                    )
                )
        del layer, runs
        torch.cuda.empty_cache()
        write(results, OURS, run, args.out)
        print(f"{time.monotonic() - start:6.1f} s {scheme_name} {shape_name}", flush=True)
    return results


def main() -> None:
    """Measure, and write what was found."""
    args = arguments()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks need a CUDA device, and torch sees none")
    if args.dry_run:
        dry_run(args)
        return
    run: dict[str, Any] = device_facts() | {
        name: round(value, 1) for name, value in ceilings().items()
    }
    run["seed"] = args.seed
    results = measure(args, run)
    write(results, OURS, run, args.out)
    print((args.out / "layers.md").read_text())
