"""Microseconds that the host takes to launch a layer for few tokens: our experts and vLLM's.

python -m benchmarks.host_time [--tokens M ...] [SCHEME ...]

Needs a CUDA GPU, and the sources of peers (README.md beside this). One call is timed from an idle
device to its return, before the device is done; the kernels take turns. So it is what an engine
waits for without CUDA graphs, where the device is faster than the host.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from moe_kernels.benchmark.layers import draw_layer, draw_workload
from moe_kernels.benchmark.peers import OURS, PeerUnavailableError, bind_ours, load_peers
from moe_kernels.benchmark.shapes import SCHEMES, SHAPES
from moe_kernels.benchmark.timing import device_facts
from moe_kernels.testing import RandomLayer

from benchmarks.peers import PEERS

ROUNDS = 300
WARM_UP = 20
VLLM = ("vllm_triton", "triton_kernels")
"""What runs vLLM's experts in Triton, those of MXFP4 the latter."""
SHAPE = "qwen3-30b-a3b"
BIASED_SHAPE = "gpt-oss-120b"
"""Of layers in MXFP4."""


def host_us(calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """The median over ``rounds`` of what each call takes the host, all in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(WARM_UP + rounds):
        for name, call in calls.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            took = time.perf_counter() - start
            if index >= WARM_UP:
                times[name].append(took)
    return {name: statistics.median(all_of_it) * 1e6 for name, all_of_it in times.items()}


def bound(layer: RandomLayer, kernel: str) -> dict[str, Callable[[RandomLayer], object]]:
    """Our kernel and vLLM's for one layer; says which of vLLM's is missing for which reason."""
    runs: dict[str, Callable[[RandomLayer], object]] = {OURS: bind_ours(layer, kernel)}
    peers = {**load_peers(), **PEERS}
    for name in VLLM:
        try:
            run = peers[name].bind(layer)
        except PeerUnavailableError as error:
            print(f"{name}: {error}")
            continue
        if run is not None:
            return runs | {name: run}
    return runs


@torch.inference_mode()
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host_time", description=__doc__.splitlines()[0]
    )
    parser.add_argument("schemes", nargs="*", metavar="SCHEME", help=", ".join(SCHEMES))
    parser.add_argument("--tokens", type=int, nargs="+", default=[1], metavar="M")
    args = parser.parse_args()
    unknown = sorted(set(args.schemes) - set(SCHEMES))
    if unknown:
        parser.error(f"unknown scheme {unknown[0]!r}; expected some of {', '.join(SCHEMES)}")
    if not torch.cuda.is_available():
        parser.error(f"a CUDA GPU is needed, and torch {torch.__version__} sees none")
    print(", ".join(f"{name} {value}" for name, value in device_facts().items()))
    print("| scheme | M | ours us | vLLM's us | ours over vLLM's | which |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in args.schemes or SCHEMES:
        scheme = SCHEMES[name]
        shape = SHAPES[BIASED_SHAPE if scheme.kernel == "OAITritonExperts" else SHAPE]
        layer = draw_layer(shape, scheme, 0)
        runs = bound(layer, scheme.kernel)
        for num_tokens in args.tokens:
            work = draw_workload(layer, shape, scheme, num_tokens, "uniform", 1, num_tokens)
            calls = {kernel: partial(run, work.inputs[0]) for kernel, run in runs.items()}
            us = host_us(calls)
            ours = us.pop(OURS)
            row = f"| {name} | {num_tokens} | {ours:.0f} | "
            for peer, theirs in us.items():
                row += f"{theirs:.0f} | {ours / theirs:.2f} | {peer} |"
            print(row if us else row + "- | - | - |", flush=True)
        del layer, runs
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
