"""Compiles everything that a plan runs, layer by layer in parallel processes.

Compiling takes longer than measuring and fills a cache on disk that all processes share.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from typing import cast

import torch

from moe_kernels.benchmark.layers import draw_layer, draw_workload
from moe_kernels.benchmark.peers import Run, bind_ours, load_peers
from moe_kernels.benchmark.plan import Plan
from moe_kernels.testing import RandomLayer

PATIENCE = 20
"""How often a process waits for memory that others hold."""


def compile_all(
    plan: Plan, peers: Sequence[str], workers: int | None, log: Callable[[str], None]
) -> None:
    """Run every kernel on every point once; ``peers``: modules, as for ``load_peers``."""
    start = time.monotonic()
    kernels = ["", *load_peers(peers)]
    # The largest layers first: they take longest.
    layers = sorted(plan.layers(), key=lambda layer: -_weight_bytes(plan, *layer))
    jobs = [(plan, *layer, kernel, peers) for layer in layers for kernel in kernels]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool:
        futures = {pool.submit(compile_layer, *job): job for job in jobs}
        for i, future in enumerate(as_completed(futures)):
            _, scheme, shape, kernel, _ = futures[future]
            failures = future.result()
            elapsed = time.monotonic() - start
            log(f"{elapsed:6.1f} s {i + 1}/{len(jobs)} {scheme} {shape} {kernel or 'ours'}")
            for failure in failures:
                log(f"  {failure}")


def _weight_bytes(plan: Plan, scheme: str, shape: str) -> float:
    s = plan.shapes[shape]
    return plan.schemes[scheme].weight_bytes * s.local_experts * s.hidden * s.intermediate


def compile_layer(
    plan: Plan, scheme: str, shape: str, peer: str, peers: Sequence[str]
) -> list[str]:
    """Run ``peer``, or our kernel for "", on all points of one layer; returns what failed."""
    failures: list[str] = []

    def attempt(what: str, action: Callable[[], object]) -> object:
        for _ in range(PATIENCE):
            try:
                result = action()
                torch.cuda.synchronize()
                return result
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                time.sleep(2 * random.random() + 1)
            except Exception as error:
                failures.append(f"{what}: {type(error).__name__}: {error!s:.300}")
                return None
        failures.append(f"{what}: no memory was free")
        return None

    layer = attempt("weights", lambda: draw_layer(plan.shapes[shape], plan.schemes[scheme], 0))
    if not isinstance(layer, RandomLayer):
        return failures
    run = attempt("binding", lambda: _bind(layer, plan.schemes[scheme].kernel, peer, peers))
    if run is None:
        return failures
    for num_tokens in plan.tokens:
        # What is compiled does not depend on the routing.
        attempt(
            f"M={num_tokens}",
            partial(_once, plan, scheme, shape, layer, cast(Run, run), num_tokens),
        )
    return failures


def _bind(layer: RandomLayer, kernel: str, peer: str, peers: Sequence[str]) -> Run | None:
    return load_peers(peers)[peer].bind(layer) if peer else bind_ours(layer, kernel)


def _once(
    plan: Plan, scheme: str, shape: str, layer: RandomLayer, run: Run, num_tokens: int
) -> None:
    work = draw_workload(
        layer, plan.shapes[shape], plan.schemes[scheme], num_tokens, plan.routings[0], 1, 0
    )
    run(work.inputs[0])
