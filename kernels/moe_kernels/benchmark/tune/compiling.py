"""Compiles the tilings that a search tries into Triton's cache, in parallel processes.

Nothing is launched: kernels are compiled for calls whose weights have sizes but no memory, so that
many processes fit on one GPU.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import torch
from triton.runtime.jit import JITFunction

from moe_kernels.benchmark.peers import converted
from moe_kernels.benchmark.tune.layers import Contender, draw
from moe_kernels.modular_kernel import FusedMoEKernel
from moe_kernels.registry.bind import bind
from moe_kernels.testing import RandomLayer
from moe_kernels.tiling.layer_config import trial
from moe_kernels.tiling.tile_config import MAX_UNSORTED_PAIRS, LayerConfig, TileConfig
from moe_rules.vocabulary.layer import FusedMoEConfig

Call = tuple[FusedMoEConfig, int]
"""A layer and its number of tokens."""

Failures = dict[FusedMoEConfig, str]
"""What failed, by layer."""

MANY_TOKENS = 1024
"""Calls of so many tokens and of more take the same kernels, if their tiling is the same."""

DRAWN_EXPERTS = 2
"""So few are drawn and converted, at least; the others only have sizes."""


@dataclass(frozen=True)
class Job:
    """What one process compiles: a tiling of both GEMMs, in some calls of a contender.

    ``tile`` None: what the rules of thumb give each call.
    """

    contender: Contender
    tile: TileConfig | None
    calls: str
    """Which of the calls: those that take the same kernels, or have the same number of tokens."""

    @classmethod
    def of(cls, contender: Contender, tile: TileConfig | None, call: Call) -> Job:
        """The job that a call belongs to."""
        config, num_tokens = call
        if tile is None:
            return cls(contender, None, f"{num_tokens} tokens")
        pairs = num_tokens * config.experts_per_token
        kind = "few" if pairs <= 16 else "unsorted" if pairs <= MAX_UNSORTED_PAIRS else "sorted"
        return cls(contender, tile, kind)


def compile_jobs(
    jobs: dict[Job, list[Call]],
    workers: int | None,
    seconds: float,
    done: Callable[[Job, Failures], None],
) -> None:
    """Compile as many jobs as ``seconds`` allow, in their order; ``done`` is told of each.

    One whose process died has failed for all layers.
    """
    end = time.monotonic() + seconds
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers or os.cpu_count(), context, initializer=_compile_only)
    try:
        futures = {pool.submit(_compile, job, calls): job for job, calls in jobs.items()}
        for future in as_completed(futures, timeout=max(0.0, end - time.monotonic())):
            job, error = futures[future], future.exception()
            died = {config: repr(error) for config, _ in jobs[job]}
            done(job, future.result() if error is None else died)
    except TimeoutError:
        pass
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _compile_only() -> None:
    """From now on, launching a Triton kernel in this process only compiles it."""
    torch.set_num_threads(1)
    run = JITFunction.run

    def compile_instead(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **options)

    JITFunction.run = compile_instead


def _compile(job: Job, calls: Sequence[Call]) -> Failures:
    config = None if job.tile is None else LayerConfig(job.tile, job.tile)
    failures = {}
    for moe_config, num_tokens in _sharing_kernels(job, calls):
        try:
            layer, kernel = _hollow(job.contender, moe_config, "cuda")
            shape = num_tokens, moe_config.experts_per_token
            tokens = dataclasses.replace(
                layer,
                hidden_states=layer.hidden_states.new_empty(num_tokens, moe_config.hidden_dim),
                topk_weights=torch.zeros(shape, device="cuda"),
                topk_ids=torch.zeros(shape, dtype=torch.int32, device="cuda"),
            )
            with trial(config):
                kernel.apply(**tokens.arguments())
        except Exception as error:
            failures[moe_config] = f"{type(error).__name__}: {error!s:.300}"
    return failures


def _sharing_kernels(job: Job, calls: Iterable[Call]) -> Iterable[Call]:
    """``calls`` without those whose kernels are those of others."""
    if job.tile is None:
        return calls  # each has tiles of its own
    return dict.fromkeys((config, min(num_tokens, MANY_TOKENS)) for config, num_tokens in calls)


@functools.lru_cache(maxsize=8)
def _hollow(
    contender: Contender, config: FusedMoEConfig, device: str
) -> tuple[RandomLayer, FusedMoEKernel]:
    """A converted layer whose w13 and w2 have no memory."""
    few = dataclasses.replace(
        config,
        num_experts=max(config.experts_per_token, DRAWN_EXPERTS),
        moe_parallel_config=dataclasses.replace(
            config.moe_parallel_config, ep_size=1, use_ep=False
        ),
    )
    own = converted(draw(few, contender, device, 0), contender.kernel)
    local = config.num_local_experts
    values = {
        f.name: getattr(own.quant_config, f.name) for f in dataclasses.fields(own.quant_config)
    }
    for name, value in values.items():
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == few.num_experts:
            size = local, *value.shape[1:]
            values[name] = value.new_empty_strided(size, value.stride())
    weights = {name: _without_memory(getattr(own, name), local) for name in ("w13", "w2")}
    expert_map = None
    if local < config.num_experts:
        expert_map = torch.full((config.num_experts,), -1, dtype=torch.int32, device=device)
    layer = dataclasses.replace(
        own,
        moe_config=config,
        quant_config=type(own.quant_config)(**values),
        expert_map=expert_map,
        **weights,
    )
    kernel = bind(contender.kernel, config, layer.quant_config, oracle=contender.oracle)
    return layer, kernel


def _without_memory(weight: torch.Tensor, num_experts: int) -> torch.Tensor:
    """A tensor like ``weight`` for so many experts, which cannot be read."""
    per_expert = weight.stride(0) * weight.element_size()
    storage = torch._C._construct_storage_from_data_pointer(
        weight.data_ptr(), weight.device, num_experts * per_expert
    )
    size = num_experts, *weight.shape[1:]
    return weight.new_empty(0).set_(storage, 0, size, weight.stride())
