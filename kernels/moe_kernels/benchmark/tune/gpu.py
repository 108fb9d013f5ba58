"""Measures layers on a GPU: searches their tilings, and times kernels that take none."""

from __future__ import annotations

import datetime
import functools
import math
import time
from collections.abc import Iterable, Sequence

import torch

from moe_kernels.benchmark.layers import rotations
from moe_kernels.benchmark.timing import graph_us
from moe_kernels.benchmark.tune.compiling import Call, Failures, Job, compile_jobs
from moe_kernels.benchmark.tune.layers import Contender, Loaded, TuneLayer, load, with_tokens
from moe_kernels.benchmark.tune.measurer import DeviceError, Progress
from moe_kernels.benchmark.tune.record import Measured, Tiling
from moe_kernels.benchmark.tune.search import ROUNDS, Search, tiles_for
from moe_kernels.reference import relative_error
from moe_kernels.registry import KernelUnavailableError, unpacks_in_triton
from moe_kernels.tiling.devices import specializes_warps
from moe_kernels.tiling.layer_config import Asked, trial
from moe_kernels.tiling.tile_config import LayerConfig, TileConfig
from moe_kernels.tiling.tuned_configs import versions
from moe_rules.vocabulary.layer import FusedMoEConfig

COMPILING = 0.4
"""The share of the time that compiling may take."""


class GpuMeasurer:
    """Times whole layers under CUDA graphs, over inputs in turn; see :class:`Measurer`.

    Raises DeviceError where torch sees no CUDA device.
    """

    def __init__(self, routing: str, seed: int, workers: int | None = None) -> None:
        if not torch.cuda.is_available():
            raise DeviceError("tilings are searched on a GPU, and torch sees none here")
        self.routing, self.seed, self.workers = routing, seed, workers
        torch_version, triton_version = versions()
        self.facts = {
            "device": torch.cuda.get_device_name(),
            "date": datetime.date.today().isoformat(),
            "torch": torch_version,
            "triton": triton_version,
            "routing": routing,
        }
        self._compiled: set[tuple[Job, FusedMoEConfig]] = set()
        self._loaded: list[Loaded] = []
        self._tune_layer: TuneLayer | None = None

    def prepare(
        self, todo: Iterable[tuple[TuneLayer, int]], seconds: float, progress: Progress
    ) -> None:
        """Compile the tilings of every layer and number of tokens."""
        jobs: dict[Job, list[Call]] = {}
        for layer, num_tokens in todo:
            call = layer.config, num_tokens
            for contender in layer.contenders:
                for tile in (None, *_tiles(layer, contender, num_tokens)):
                    jobs.setdefault(Job.of(contender, tile, call), []).append(call)
        # What every search begins with comes first.
        ordered = dict(sorted(jobs.items(), key=lambda item: item[0].tile is not None))
        progress.begin("compiling", len(ordered))
        failures: set[str] = set()

        def done(job: Job, failed: Failures) -> None:
            self._compiled |= {(job, config) for config, _ in jobs[job] if config not in failed}
            failures.update(f"{job.contender.kernel} {job.tile}: {e}" for e in failed.values())
            progress.step("")

        compile_jobs(ordered, self.workers, COMPILING * seconds, done)
        for failure in sorted(failures):
            progress.note(f"not compiled: {failure}")

    def load(self, layer: TuneLayer, progress: Progress) -> None:
        """Draw and convert the weights for every contender; one that cannot run is noted."""
        self._tune_layer, self._loaded = layer, []
        torch.cuda.empty_cache()
        for contender in layer.contenders:
            try:
                self._loaded.append(load(layer.config, contender, "cuda", self.seed))
            except (KernelUnavailableError, ValueError, RuntimeError) as error:
                progress.note(f"{contender.kernel} is left out of {layer}: {error}")

    def measure(self, num_tokens: int, seconds: float, progress: Progress) -> list[Measured]:
        """The time of every contender, with the best tiling that was found for it."""
        found = []
        for loaded in self._loaded:
            end = time.monotonic() + seconds / len(self._loaded)
            try:
                found.append(self._measure(loaded, num_tokens, end, progress))
            except Exception as error:  # of the kernel, whatever it is: others may still run
                progress.note(f"{loaded.contender.kernel} failed with {num_tokens} tokens: {error}")
        return found

    def _measure(self, loaded: Loaded, num_tokens: int, end: float, progress: Progress) -> Measured:
        assert self._tune_layer is not None
        layer, contender = self._tune_layer, loaded.contender
        count = rotations(num_tokens, loaded.layer.w13.nbytes + loaded.layer.w2.nbytes)
        inputs = with_tokens(loaded.layer, num_tokens, self.routing, count, self.seed + num_tokens)
        calls = [functools.partial(loaded, tokens) for tokens in inputs]
        result = functools.partial(
            Measured, str(layer), num_tokens, contender.backend, contender.kernel
        )
        with trial(None) as asked:
            expected = torch.cat([call() for call in calls])
        if not asked:
            return result(graph_us(calls, ROUNDS[-1][0]))
        start: Asked = asked[0]
        failures: list[str] = []

        def time_us(config: LayerConfig, replays: int) -> float:
            try:
                with trial(config):
                    return graph_us(calls, replays)
            except Exception as error:  # more shared memory than there is, and the like
                failures.append(f"{tuple(map(tuple, config))}: {error!s:.200}")
                return math.inf

        search = Search(time_us, lambda: time.monotonic() > end)
        best = search.run(start.config, self._compiled_tiles(layer, contender, num_tokens))
        with trial(best):
            error = relative_error(torch.cat([call() for call in calls]), expected)
        # Both may err by the bound, each in its own direction.
        if not error <= 2 * loaded.layer.error_bound(loaded.kernel):
            failures.append(f"{tuple(map(tuple, best))} gives another result ({error:.1e})")
            best = start.config
        for failure in dict.fromkeys(failures):
            progress.note(f"{contender.kernel} with {num_tokens} tokens: {failure}")
        heuristic_us = search.times[start.config]
        if math.isinf(search.times[best]):
            raise RuntimeError("not even the tiling of the rules of thumb runs")
        tiling = Tiling(start.layer, start.pairs, best, heuristic_us, len(search.times))
        return result(search.times[best], tiling)

    def _compiled_tiles(
        self, layer: TuneLayer, contender: Contender, num_tokens: int
    ) -> Sequence[TileConfig]:
        """The tilings to try: others would take longer to compile than to measure."""
        config = layer.config
        jobs = {
            tile: Job.of(contender, tile, (config, num_tokens))
            for tile in _tiles(layer, contender, num_tokens)
        }
        return [tile for tile, job in jobs.items() if (job, config) in self._compiled]


def _tiles(layer: TuneLayer, contender: Contender, num_tokens: int) -> list[TileConfig]:
    """The tilings of a layer that may be good."""
    config, key = layer.config, contender.weight_key
    columns = min(config.hidden_dim, config.intermediate_size_per_partition)
    activation_bytes = 4 if config.in_dtype == "fp32" else 2
    if contender.activation_key is not None:
        activation_bytes = 1
        group = 0 if key is None else key.scale.group_shape[1]
        columns = min(columns, group) if group > 1 else columns
    rows = min(config.hidden_dim, 2 * config.intermediate_size_per_partition)
    load = num_tokens * layer.load_per_token
    packed = unpacks_in_triton(contender.kernel)
    fp8 = key is not None and key.dtype == "fp8_e4m3" and activation_bytes == 1
    specialized = fp8 or (packed and config.in_dtype == "bf16")
    specialized = specialized and specializes_warps(torch.device("cuda"))
    return tiles_for(load, activation_bytes, rows, columns, packed, specialized)
