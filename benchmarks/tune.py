"""Search tilings of the two GEMMs: ``python -m benchmarks.tune``. Writes a table of the best."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from moe_kernels.activation import ActivationParameters
from moe_kernels.benchmark.layers import draw_layer, draw_workload, rotations
from moe_kernels.benchmark.shapes import SCHEMES, SHAPES, TOKENS, Scheme, Shape
from moe_kernels.benchmark.timing import device_facts, graph_us
from moe_kernels.ops import fused_moe_gemm as gemm_module
from moe_kernels.ops.fused_moe_gemm import (
    FusedActivation,
    UnsortedPairs,
    fused_moe_gemm,
)
from moe_kernels.ops.moe_align_block_size import SortedPairs, moe_align_block_size
from moe_kernels.ops.quantize_fp8 import quantize_fp8
from moe_kernels.testing import RandomLayer
from moe_kernels.tuning import MAX_UNSORTED_PAIRS, TileConfig

UP, DOWN = "up", "down"


@dataclass(frozen=True)
class Point:
    """What is tuned: one layer and one number of tokens."""

    scheme: str
    shape: str
    num_tokens: int

    @property
    def num_pairs(self) -> int:
        """(token, expert) pairs, local or not."""
        return self.num_tokens * SHAPES[self.shape].topk

    @property
    def pairs_per_expert(self) -> float:
        """On average."""
        return self.num_pairs / SHAPES[self.shape].experts


def candidates(point: Point) -> list[tuple[bool, TileConfig]]:
    """(sorted or not, tiling): what may be good for so many pairs per expert."""
    narrow = SCHEMES[point.scheme].weight_key is not None
    load = point.pairs_per_expert
    found: list[tuple[bool, TileConfig]] = []

    def add(sort: bool, options: Iterable[tuple[int, ...]]) -> None:
        for block_m, block_n, block_k, warps, stages in options:
            for group in (1, 8) if load >= 64 else (1,):
                tile = TileConfig(block_m, block_n, block_k, group, warps, stages)
                found.append((sort, tile))

    few = [(32, 128, 4, 4), (64, 128, 4, 3), (64, 128, 4, 4), (128, 128, 4, 3), (128, 128, 4, 4)]
    if not narrow:
        few += [(128, 64, 4, 4), (64, 64, 4, 6), (32, 256, 4, 3)]
    else:
        few += [(16, 128, 4, 4), (64, 128, 4, 6), (128, 128, 8, 4), (32, 128, 2, 5)]
    for block_m in (16, 32):
        # Programs that find their pairs themselves, and few pairs of each expert.
        enough = block_m == 16 or load > 4
        if point.num_pairs <= MAX_UNSORTED_PAIRS and enough and load <= 2 * block_m:
            add(False, ((block_m, *rest) for rest in few))
    if load <= 24 and point.num_pairs > 32:
        add(True, ((16, *rest) for rest in few[1:]))
    if 2 <= load <= 64:
        add(True, ((32, n, k, w, s) for n, k, w, s in few[2:] if n >= 64))
    wide = 128 if narrow else 64
    if load >= 4:
        add(True, [(64, 128, wide, 4, 4), (64, 128, wide, 4, 3), (64, 256, wide, 8, 3)])
        add(True, [(64, 64, wide, 4, 4)] if narrow else [(64, 256, wide, 4, 4)])
    if load >= 24:
        add(True, [(128, 128, wide, 8, 3), (128, 128, wide, 8, 4), (128, 64, wide, 4, 4)])
        if not narrow:
            add(True, [(128, 256, 64, 8, 4), (128, 256, 64, 8, 3), (128, 128, 64, 4, 3)])
    return found


def run_gemm(
    which: str,
    layer: RandomLayer,
    scheme: Scheme,
    pairs: SortedPairs | UnsortedPairs,
    tile: TileConfig,
    x: torch.Tensor,
    x_scale: torch.Tensor | None,
) -> torch.Tensor:
    """One GEMM of the layer as ``TritonExperts`` runs it, without what comes before and after."""
    num_pairs, top_k = layer.topk_ids.numel(), layer.topk_ids.shape[1]
    quant = layer.quant_config
    return fused_moe_gemm(
        x,
        layer.w13 if which == UP else layer.w2,
        pairs,
        num_pairs,
        top_k if which == UP else 1,
        tile,
        torch.bfloat16,
        a_scale=x_scale,
        b_scale=quant.w13_scale if which == UP else quant.w2_scale,
        block_shape=quant.weight_block_shape,
        activation=FusedActivation("silu", ActivationParameters()) if which == UP else None,
    )


@dataclass(frozen=True)
class Inputs:
    """Everything one GEMM of one token set needs but the tiling."""

    layer: RandomLayer
    tensors: dict[str, tuple[torch.Tensor, torch.Tensor | None]]
    """The GEMM's input and its scales."""


def make_inputs(layer: RandomLayer, scheme: Scheme) -> Inputs:
    intermediate = torch.empty(
        layer.topk_ids.numel(), layer.w2.shape[2], dtype=torch.bfloat16, device=layer.w2.device
    ).normal_()
    wide = {UP: layer.hidden_states, DOWN: intermediate}
    group = layer.quant_config.activation_group_shape
    if group is None:
        return Inputs(layer, {which: (x, None) for which, x in wide.items()})
    return Inputs(layer, {which: quantize_fp8(x, group) for which, x in wide.items()})


def pairs_of(layer: RandomLayer, sort: bool, block_m: int) -> SortedPairs | UnsortedPairs:
    routing = layer.topk_ids, layer.moe_config.num_experts, layer.expert_map
    if not sort:
        return UnsortedPairs(*routing)
    ids, num_experts, expert_map = routing
    return moe_align_block_size(ids, block_m, layer.w13.shape[0], num_experts, expert_map)


class _Warmup:
    """Stands in for the kernel where it is to be compiled but not run."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        return functools.partial(self.kernel.warmup, grid=grid)


def compile_point(job: tuple[Point, list[tuple[bool, TileConfig]]]) -> list[str]:
    """Compile some candidates of a point into Triton's cache; returns what failed."""
    point, tiles = job
    shape, scheme = SHAPES[point.shape], SCHEMES[point.scheme]
    layer = _empty_layer(shape, scheme, point.num_tokens)
    if not isinstance(gemm_module._fused_moe_gemm_kernel, _Warmup):
        gemm_module._fused_moe_gemm_kernel = _Warmup(gemm_module._fused_moe_gemm_kernel)
    failed = []
    inputs = make_inputs(layer, scheme)
    for sort, tile in tiles:
        some = torch.empty(16, dtype=torch.int32, device="cuda")
        pairs = SortedPairs(some, some, some) if sort else pairs_of(layer, sort, tile.block_m)
        for which in (UP, DOWN):
            try:
                run_gemm(which, layer, scheme, pairs, tile, *inputs.tensors[which])
            except Exception as error:
                failed.append(f"{point} {which} {tile}: {error!s:.200}")
    return failed


@functools.lru_cache(maxsize=1)
def _weights(shape: Shape, scheme: Scheme) -> RandomLayer:
    """Weights of the right sizes without values."""
    small = Shape(shape.experts, shape.topk, 256, 128, shape.ep_size)
    layer = draw_layer(small, scheme, 0)
    empty = functools.partial(torch.empty, dtype=layer.w13.dtype, device="cuda")
    experts, hidden, inner = shape.local_experts, shape.hidden, shape.intermediate
    w13, w2 = empty(experts, 2 * inner, hidden), empty(experts, hidden, inner)
    quant = layer.quant_config
    if quant.weight_block_shape is not None:
        scales = [
            torch.empty(experts, -(-w.shape[1] // 128), -(-w.shape[2] // 128), device="cuda")
            for w in (w13, w2)
        ]
        quant = replace(quant, w13_scale=scales[0], w2_scale=scales[1])
    return replace(layer, moe_config=shape.moe_config(), w13=w13, w2=w2, quant_config=quant)


def _empty_layer(shape: Shape, scheme: Scheme, num_tokens: int) -> RandomLayer:
    return draw_workload(
        _weights(shape, scheme), shape, scheme, num_tokens, "uniform", 1, 0
    ).inputs[0]


def tune_point(layer: RandomLayer, point: Point, routing: str) -> dict[str, Any]:
    """Time every candidate; returns the best layer configuration and all times."""
    shape, scheme = SHAPES[point.shape], SCHEMES[point.scheme]
    weight_bytes = 6.0 * shape.local_experts * shape.hidden * shape.intermediate
    count = rotations(point.num_tokens, weight_bytes)
    work = draw_workload(layer, shape, scheme, point.num_tokens, routing, count, point.num_tokens)
    inputs = [make_inputs(tokens, scheme) for tokens in work.inputs]
    prepared: dict[tuple[bool, int], list[SortedPairs | UnsortedPairs]] = {}
    align: dict[tuple[bool, int], float] = {}
    times: list[dict[str, Any]] = []
    for sort, tile in candidates(point):
        key = sort, tile.block_m
        if key not in prepared:
            prepared[key] = [pairs_of(tokens, *key) for tokens in work.inputs]
            align[key] = 0.0
            if sort:
                calls = [functools.partial(pairs_of, tokens, *key) for tokens in work.inputs]
                align[key] = graph_us(calls, 3)
        for which in (UP, DOWN):
            calls = [
                functools.partial(
                    run_gemm,
                    which,
                    given.layer,
                    scheme,
                    pairs,
                    tile,
                    *given.tensors[which],
                )
                for given, pairs in zip(inputs, prepared[key], strict=True)
            ]
            try:
                us = graph_us(calls, 3)
            except Exception as error:
                print(f"failed: {point} {which} {tile}: {error!s:.200}")
                continue
            times.append(
                {"gemm": which, "sort": sort, "tile": list(tile), "us": us, "align": align[key]}
            )
    best: dict[str, Any] | None = None
    for sort, block_m in prepared:
        chosen = {}
        for which in (UP, DOWN):
            fitting = [
                t
                for t in times
                if t["gemm"] == which and t["sort"] == sort and t["tile"][0] == block_m
            ]
            chosen[which] = min(fitting, key=lambda t: t["us"])
        total = chosen[UP]["us"] + chosen[DOWN]["us"] + align[sort, block_m]
        if best is None or total < best["us"]:
            best = {"us": total, "sort": sort, "align": align[sort, block_m]}
            best |= {which: chosen[which]["tile"] for which in (UP, DOWN)}
            best |= {f"{which}_us": chosen[which]["us"] for which in (UP, DOWN)}
    assert best is not None
    return {"point": vars(point), "best": best, "times": times}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=["bf16"])
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--routing", default="uniform")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no point after so many")
    parser.add_argument("--workers", type=int, default=14, help="processes that compile")
    parser.add_argument("--out", type=Path, default=Path("out/tune.json"))
    args = parser.parse_args()
    start = time.monotonic()
    points = [
        Point(scheme, shape, tokens)
        for scheme, shape in itertools.product(args.schemes, args.shapes)
        for tokens in args.tokens
    ]
    jobs = [(p, candidates(p)[i::2]) for p in points for i in range(2)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, mp_context=context) as pool:
        for failures in pool.map(compile_point, jobs):
            for failure in failures:
                print(failure)
    print(f"{time.monotonic() - start:6.1f} s compiled", flush=True)
    results = []
    layer, drawn = None, None
    for point in points:
        if time.monotonic() - start > args.seconds:
            print(f"no time left for {point}")
            continue
        if drawn != (point.scheme, point.shape):
            layer = None
            torch.cuda.empty_cache()
            layer = draw_layer(SHAPES[point.shape], SCHEMES[point.scheme], 0)
            drawn = point.scheme, point.shape
        assert layer is not None
        results.append(tune_point(layer, point, args.routing))
        best = results[-1]["best"]
        print(
            f"{time.monotonic() - start:6.1f} s {point.scheme} {point.shape} M={point.num_tokens}: "
            f"{best['us']:.1f} us {'sorted' if best['sort'] else 'unsorted'} "
            f"{best['align']:.1f} + up {best[UP]} {best['up_us']:.1f} "
            f"+ down {best[DOWN]} {best['down_us']:.1f}",
            flush=True,
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"run": device_facts(), "results": results}))


if __name__ == "__main__":
    main()
