"""Measures the kernels of layers on the CPU against each other."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Iterable

import torch

from moe_kernels.benchmark.tune.layers import Loaded, TuneLayer, load, with_tokens
from moe_kernels.benchmark.tune.measurer import Progress
from moe_kernels.benchmark.tune.record import Measured
from moe_kernels.registry import KernelUnavailableError
from moe_rules.machines.detection import detect

INPUTS = 3
MIN_ROUNDS, MAX_ROUNDS = 5, 31


class CpuMeasurer:
    """Times all contenders in turn, over several inputs; see :class:`Measurer`.

    Others may use the CPU too, so contenders take turns, and the median counts.
    """

    def __init__(self, routing: str, seed: int) -> None:
        self.routing, self.seed = routing, seed
        self.facts = {
            "device": detect().name,
            "date": datetime.date.today().isoformat(),
            "torch": torch.__version__.partition("+")[0],
            "threads": str(torch.get_num_threads()),
            "routing": routing,
        }
        self._layer = ""
        self._loaded: list[Loaded] = []

    def prepare(
        self, todo: Iterable[tuple[TuneLayer, int]], seconds: float, progress: Progress
    ) -> None:
        """Nothing is to be compiled."""

    def load(self, layer: TuneLayer, progress: Progress) -> None:
        """Draw and convert the weights for every contender; one that cannot run is noted."""
        self._layer, self._loaded = str(layer), []
        for contender in layer.contenders:
            try:
                self._loaded.append(load(layer.config, contender, "cpu", self.seed))
            except (KernelUnavailableError, ValueError) as error:
                progress.note(f"{contender.kernel} is left out of {layer}: {error}")

    def measure(self, num_tokens: int, seconds: float, progress: Progress) -> list[Measured]:
        """The median time of every contender, each round with another one first."""
        end = time.perf_counter() + seconds
        seed = self.seed + num_tokens
        runs = [
            (loaded, with_tokens(loaded.layer, num_tokens, self.routing, INPUTS, seed))
            for loaded in self._loaded
        ]
        times: list[list[float]] = [[] for _ in runs]
        with torch.inference_mode():
            for loaded, inputs in runs:
                loaded(inputs[-1])
            for index in range(MAX_ROUNDS):
                if index >= MIN_ROUNDS and time.perf_counter() > end:
                    break
                for i in range(len(runs)):
                    which = (index + i) % len(runs)
                    loaded, inputs = runs[which]
                    start = time.perf_counter()
                    loaded(inputs[index % INPUTS])
                    times[which].append(time.perf_counter() - start)
        return [
            Measured(
                self._layer,
                num_tokens,
                loaded.contender.backend,
                loaded.contender.kernel,
                statistics.median(measured) * 1e6,
            )
            for (loaded, _), measured in zip(runs, times, strict=True)
        ]
