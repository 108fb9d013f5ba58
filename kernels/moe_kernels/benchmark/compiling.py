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
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

import torch

from moe_kernels.benchmark.layers import draw_layer, draw_workload
from moe_kernels.benchmark.peers import Run, bind_ours, load_peers
from moe_kernels.benchmark.plan import Plan
from moe_kernels.testing import RandomLayer

T = TypeVar("T")

PATIENCE = 60
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
            try:
                failures = future.result()
            except BrokenProcessPool:
                log("a process died; what is not compiled yet is when it is measured")
                return
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
    _compile_layer(plan, scheme, shape, peer, peers, failures)
    torch.cuda.empty_cache()  # for other processes
    return failures


def _compile_layer(
    plan: Plan, scheme: str, shape: str, peer: str, peers: Sequence[str], failures: list[str]
) -> None:
    kernel = plan.schemes[scheme].kernel
    layer = _attempt("weights", lambda: _draw(plan, scheme, shape), failures)
    if layer is None:
        return
    run = _attempt("binding", lambda: _bind(layer, kernel, peer, peers), failures)
    if run is None:
        return
    for num_tokens in plan.tokens:
        # What is compiled does not depend on the routing.
        once = partial(_once, plan, scheme, shape, layer, run, num_tokens)
        _attempt(f"M={num_tokens}", once, failures)


def _attempt(what: str, action: Callable[[], T], failures: list[str]) -> T | None:
    """What ``action`` returns, sooner or later; None, and a note, if it fails."""
    for _ in range(PATIENCE):
        try:
            result = action()
            torch.cuda.synchronize()
            return result
        except torch.OutOfMemoryError:
            pass  # its tensors live as long as the error
        except Exception as error:
            failures.append(f"{what}: {type(error).__name__}: {error!s:.300}")
            return None
        torch.cuda.empty_cache()
        time.sleep(1 + 2 * random.random())
    failures.append(f"{what}: no memory was free")
    return None


def _draw(plan: Plan, scheme: str, shape: str) -> RandomLayer:
    return draw_layer(plan.shapes[shape], plan.schemes[scheme], plan.seed)


def _bind(layer: RandomLayer, kernel: str, peer: str, peers: Sequence[str]) -> Run | None:
    return load_peers(peers)[peer].bind(layer) if peer else bind_ours(layer, kernel)


def _once(
    plan: Plan, scheme: str, shape: str, layer: RandomLayer, run: Run, num_tokens: int
) -> None:
    work = draw_workload(
        layer, plan.shapes[shape], plan.schemes[scheme], num_tokens, plan.routings[0], 1, 0
    )
    run(work.inputs[0])
