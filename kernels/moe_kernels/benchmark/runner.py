"""Measures whole MoE layers: hidden states, topk ids and weights in; output out; no router.

Every kernel is checked against a float32 reference, then replayed as a CUDA graph over several
sets of tokens and routings, so that weights come from memory and not from the cache.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from moe_kernels.benchmark.compiling import compile_all
from moe_kernels.benchmark.layers import draw_layer, draw_workload, first_tokens, rotations
from moe_kernels.benchmark.peers import (
    OURS,
    Peer,
    PeerUnavailableError,
    Run,
    bind_ours,
    load_peers,
)
from moe_kernels.benchmark.plan import Plan, add_options, plan_of
from moe_kernels.benchmark.plots import write_plots
from moe_kernels.benchmark.ranks_report import run_over_ranks
from moe_kernels.benchmark.report import Failure, Launch, Measurement, Pick, Point, Results
from moe_kernels.benchmark.shapes import Cost, cost
from moe_kernels.benchmark.timing import (
    call_bytes,
    ceilings,
    device_facts,
    eager_us,
    graph_us,
    launches,
)
from moe_kernels.ranks.agreement import RankError
from moe_kernels.reference import relative_error
from moe_kernels.testing import RandomLayer

CHECKED_TOKENS = 48
"""Rows of the output that are compared with the reference; others do not influence them."""
PEER_BOUND = 2.0
"""Others round routing weights to the layer's dtype, and sum in it: their bound is wider."""

Log = Callable[[str], None]
Picks = Callable[[str], Sequence[Pick]]
T = TypeVar("T")


class BenchmarkError(Exception):
    """The benchmark cannot run, or go on; the message says why, and what would help."""


class DeviceLostError(BenchmarkError):
    """An error after which this process can use the device no more."""


class Benchmark:
    """One run: what was found so far, and where it goes."""

    def __init__(self, plan: Plan, peers: Mapping[str, Peer], results: Results, log: Log) -> None:
        self.plan = plan
        self.peers = peers
        self.results = results
        self.log = log
        self._start = time.monotonic()

    @property
    def out_of_time(self) -> bool:
        """Whether the plan's time is over."""
        seconds = self.plan.seconds
        return seconds is not None and time.monotonic() - self._start > seconds

    @torch.inference_mode()  # as engines run
    def measure(self, folder: Path, step: Callable[[], None]) -> None:
        """Every batch of the plan; writes results after each, and calls ``step`` per point.

        Raises DeviceLostError, with the results written.
        """
        for batch in self.plan.batches():
            if self.out_of_time:
                break
            try:
                self._batch(batch, step)
            finally:
                self.results.write(folder)
            torch.cuda.empty_cache()
            elapsed = time.monotonic() - self._start
            self.log(f"{elapsed:6.1f} s {batch[0].scheme} {batch[0].shape}")
        self.results.write(folder)
        if self.out_of_time:
            self.log("time is up; not all points were measured")

    def _batch(self, batch: list[Point], step: Callable[[], None]) -> None:
        scheme_name, shape_name = batch[0][:2]
        kernels = [name for name in (OURS, *self.peers) if self._open(batch, name)]
        if not kernels:
            return
        scheme = self.plan.schemes[scheme_name]
        layer = draw_layer(self.plan.shapes[shape_name], scheme, self.plan.seed)
        whole = Point(scheme_name, shape_name, "", 0)
        runs = {}
        for name in kernels:
            bind = partial(self._bind, whole, name, layer, scheme.kernel)
            run = self._attempt(whole, name, bind)
            if run is not None:
                runs[name] = run
        for point in batch:
            if self.out_of_time:
                return
            self._point(point, layer, runs)
            step()

    def _open(self, batch: list[Point], name: str) -> list[Point]:
        """The points on which a kernel is still to be measured."""
        return [point for point in batch if not self.results.settled(point, name)]

    def _bind(self, whole: Point, name: str, layer: RandomLayer, kernel_name: str) -> Run | None:
        if name == OURS:
            return bind_ours(layer, kernel_name)
        run = self.peers[name].bind(layer)
        if run is None:
            self.results.declined.append([whole.scheme, whole.shape, name])
        return run

    def _point(self, point: Point, layer: RandomLayer, runs: Mapping[str, Run]) -> None:
        runs = {name: run for name, run in runs.items() if self._open([point], name)}
        if not runs:
            return
        shape, scheme = self.plan.shapes[point.shape], self.plan.schemes[point.scheme]
        weights = shape.local_experts * 3.0 * shape.hidden * shape.intermediate
        count = rotations(point.num_tokens, weights * scheme.weight_bytes)
        seed = self.plan.seed + point.num_tokens
        work = draw_workload(layer, shape, scheme, point.num_tokens, point.routing, count, seed)
        costs = [cost(shape, scheme, tokens.topk_ids) for tokens in work.inputs]
        mean = Cost(
            statistics.mean(c.bytes for c in costs), statistics.mean(c.flops for c in costs)
        )
        sample = first_tokens(work.inputs[0], CHECKED_TOKENS)
        expected = sample.reference(dtype=torch.float32)
        for name, run in runs.items():
            bound = sample.error_bound() * (1.0 if name == OURS else PEER_BOUND)
            one = partial(self._measure, point, name, run, work.inputs, mean, expected, bound)
            self._attempt(point, name, one)
            torch.cuda.empty_cache()  # every graph had memory of its own

    def _measure(
        self,
        point: Point,
        name: str,
        run: Run,
        inputs: list[RandomLayer],
        mean: Cost,
        expected: torch.Tensor,
        bound: float,
    ) -> None:
        """Check ``run``, time it, and note what was found. Raises ValueError if it is wrong."""
        error = output_error(run, inputs[0], expected)
        if not error <= bound:
            raise ValueError(f"wrong: error {error:.1e} against the reference, bound {bound:.0e}")
        calls = [partial(run, tokens) for tokens in inputs]
        us = graph_us(calls)
        eager = eager_us(calls[0], 20 if point.num_tokens < 4096 else 3)
        facts = self.results.run
        gbps = max(facts["copy_gbps"], facts["read_gbps"])
        rate = self.plan.schemes[point.scheme].matrix_rate
        tflops = facts.get(rate, facts["bf16_tflops"])
        bound_by = "bytes" if mean.bytes / gbps > mean.flops / tflops * 1e-3 else "flops"
        measured = mean.bytes / us * 1e-3, mean.flops / us * 1e-6
        self.results.measurements.append(
            Measurement(
                *point,
                name,
                us,
                eager,
                mean.floor_us(gbps, tflops),
                bound_by,
                *measured,
                error,
                call_bytes(calls[0]),
            )
        )
        if self.plan.launches:
            for i, (launch, launch_us) in enumerate(launches(calls)):
                self.results.launches.append(Launch(*point, name, i, launch, launch_us))

    def _attempt(self, point: Point, name: str, action: Callable[[], T]) -> T | None:
        """What ``action`` returns; None, and a note, if it fails.

        Raises DeviceLostError if nothing can run on the device after that.
        """
        try:
            return action()
        except PeerUnavailableError as error:
            self._note(point, name, str(error))
        except Exception as error:
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            self._note(point, name, f"{type(error).__name__}: {first:.300}")
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceLostError(
                f"{name} on {point} left the device unusable ({error!s:.200}); --resume goes on "
                "without it"
            ) from error
        return None

    def _note(self, point: Point, name: str, error: str) -> None:
        self.results.failures.append(Failure(*point, name, error))
        self.log(f"{name} on {point}: {error}")


def output_error(run: Run, layer: RandomLayer, expected: torch.Tensor) -> float:
    """The error of ``run`` on the first tokens of ``layer``, its outputs poisoned before."""
    poison = torch.full((64 << 20,), float("nan"), device=expected.device)
    del poison
    return relative_error(run(layer)[: len(expected)], expected)


def abouts(peers: Mapping[str, Peer]) -> dict[str, str]:
    """What each peer says of itself."""
    found = {}
    for name, peer in peers.items():
        try:
            found[name] = peer.about()
        except PeerUnavailableError as error:
            found[name] = f"not here: {error}"
    return found


def run(plan: Plan, args: argparse.Namespace, picks: Picks = lambda _: []) -> None:
    """Measure, or compile with ``args.compile``; shows progress, writes to ``args.out``.

    ``picks``: what vLLM selects for the plan's layers, for the name of a device.
    With ``args.ranks`` over ranks (:mod:`moe_kernels.benchmark.ranks_report`).

    Raises BenchmarkError without a GPU, for peers that cannot be loaded, a DIR that cannot be
    resumed, and where the device was lost.
    """
    if args.ranks:
        try:
            run_over_ranks(plan, args)
        except (RankError, ValueError) as error:
            raise BenchmarkError(str(error)) from error
        return
    if not torch.cuda.is_available():
        raise BenchmarkError(
            f"a benchmark needs a CUDA GPU, and torch {torch.__version__} sees none"
        )
    try:
        peers = load_peers(args.peers)
    except PeerUnavailableError as error:
        raise BenchmarkError(f"--peers: {error}") from error
    console = Console(stderr=True)
    if args.compile:
        compile_all(plan, args.peers, args.workers, console.print)
        return
    facts = {**device_facts(), **{k: round(v, 1) for k, v in ceilings().items()}}
    facts |= {"date": date.today().isoformat(), "seed": plan.seed, "peers": abouts(peers)}
    results = Results(OURS, facts)
    if args.resume and (args.out / "layers.json").exists():
        results = _resumed(args.out, facts)
        plan = replace(plan, seed=results.run["seed"])
    results.peer_kernels |= {name: sorted(peer.kernels) for name, peer in peers.items()}
    results.picks = list(picks(facts["device"]))
    total = sum(len(batch) for batch in plan.batches())
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("measuring", total=total)
        benchmark = Benchmark(plan, peers, results, progress.console.print)
        benchmark.measure(args.out, partial(progress.advance, task))
    write_plots(results.measurements, OURS, args.out)
    print((args.out / "layers.md").read_text())


def _resumed(folder: Path, facts: Mapping[str, object]) -> Results:
    """The results of an earlier run. Raises BenchmarkError for other devices and versions."""
    try:
        results = Results.read(folder)
        before = results.run
        differing = [name for name in device_facts() if before[name] != facts[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{folder} holds no results to go on with: {error!r}") from error
    if differing:
        raise BenchmarkError(f"{folder} holds results of another {' and '.join(differing)}")
    results.run["peers"] |= facts["peers"]  # of those that joined since
    return results


def main() -> None:
    """The command line without the packages that ``moe-rules`` needs."""
    parser = argparse.ArgumentParser(prog="python -m moe_kernels.benchmark", description=__doc__)
    add_options(parser)
    args = parser.parse_args()
    plan = plan_of(args)
    if args.dry_run:
        print("\n".join(plan.lines()))
        return
    try:
        run(plan, args)
    except BenchmarkError as error:
        raise SystemExit(f"{parser.prog}: error: {error}") from None
