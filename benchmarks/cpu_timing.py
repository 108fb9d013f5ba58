"""Timing on a CPU that others may use too: everything interleaved, ratios within a round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from moe_kernels.cpu import onednn

Call = Callable[[], object]


Clock = Callable[[], float]
"""Seconds since some time."""


def seconds(call: Call, clock: Clock = time.perf_counter) -> float:
    """How long one call takes."""
    start = clock()
    call()
    return clock() - start


@dataclass(frozen=True)
class Ratio:
    """How many times longer one call takes than another: over rounds, each a pair of calls."""

    median: float
    low: float
    """The first quartile."""
    high: float
    """The third quartile."""


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Ratio:
    """The ratio of ``slower`` to ``faster``, round by round."""
    values = [a / b for a, b in zip(slower, faster, strict=True)]
    if len(values) < 2:
        return Ratio(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(median, low, high)


class Ceilings:
    """The best that torch reached on this CPU in this process: GB/s and GFLOPS, by dtype.

    Each :meth:`probe` tries again, so that one disturbed by other processes does not count.
    """

    def __init__(self) -> None:
        self.best: dict[str, float] = {}
        generator = torch.Generator().manual_seed(0)
        self._source = torch.randint(-(2**62), 2**62, (1 << 23,), generator=generator)
        self._target = torch.empty_like(self._source)
        self._products = {
            name: tuple(
                torch.randn(rows, 2048, generator=generator).to(dtype) for rows in (512, 2048)
            )
            for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
        }

        self._int8 = tuple(
            torch.randint(-127, 128, (rows, 2048), generator=generator, dtype=torch.int8)
            for rows in (512, 2048)
        )

    def evict(self) -> None:
        """Fill the cache with something else."""
        self._source.sum()

    def probe(self) -> None:
        """Measure everything once: copying, reading, products of [512, 2048] and [2048, 2048]."""
        size = self._source.nbytes
        self._keep("copy_gbps", 2e-9 * size, lambda: self._target.copy_(self._source))
        self._keep("read_gbps", 1e-9 * size, self.evict)
        if onednn.multiplies(torch.int8):
            a, b = self._int8
            flops = 2e-9 * a.numel() * len(b)
            self._keep("int8_gflops", flops, lambda: torch._int_mm(a, b.t()))
        for name, (a, b) in self._products.items():
            flops = 2e-9 * a.numel() * len(b)
            self._keep(f"{name}_gflops", flops, lambda a=a, b=b: F.linear(a, b))  # type: ignore[misc]

    def _keep(self, name: str, work: float, call: Call) -> None:
        self.best[name] = max(self.best.get(name, 0.0), work / seconds(call))


def interleaved(
    calls: Mapping[str, Sequence[Call]],
    evict: Call,
    budget: float,
    clock: Clock = time.perf_counter,
    min_rounds: int = 5,
    max_rounds: int = 31,
) -> dict[str, list[float]]:
    """Seconds of every call, by name and round; all names once a round, in an order that rotates.

    ``calls``: for each name, one call per input; a round runs one input. The cache is cold at the
    start of each. ``clock``: of the calls. Rounds end after ``budget`` seconds, but not before
    ``min_rounds``.
    """
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for index in range(max_rounds):
        if index >= min_rounds and time.perf_counter() - start > budget:
            break
        for name in names[index % len(names) :] + names[: index % len(names)]:
            evict()
            inputs = calls[name]
            times[name].append(seconds(inputs[index % len(inputs)], clock))
    return times
