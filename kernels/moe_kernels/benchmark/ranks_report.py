"""``bench --ranks``: layers over the ranks that torchrun started, as a table against one rank."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from moe_kernels.benchmark.layers import draw_layer, draw_workload
from moe_kernels.benchmark.over_ranks import LayerOverRanks, Phase, SpreadLayer
from moe_kernels.benchmark.plan import Plan
from moe_kernels.benchmark.report import Point
from moe_kernels.benchmark.shapes import Scheme
from moe_kernels.ranks.group import Ranks
from moe_kernels.ranks.torchrun import process_group, started_by_torchrun, this_rank
from moe_rules.vocabulary.layer import FusedMoEParallelConfig


@dataclass
class RanksResults:
    """What was measured on each point. ``run``: the facts that figures depend on."""

    run: Mapping[str, Any]
    measured: list[tuple[Point, LayerOverRanks]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write ranks.json and ranks.md."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{**point._asdict(), **layer.to_dict()} for point, layer in self.measured]
        (folder / "ranks.json").write_text(json.dumps({"run": self.run, "layers": rows}, indent=1))
        (folder / "ranks.md").write_text("\n".join(self.markdown()) + "\n")

    def markdown(self) -> Iterator[str]:
        """The facts, and a row for each layer."""
        yield from (f"- {name}: {value}" for name, value in self.run.items())
        yield ""
        head = ["scheme", "shape", "routing", "M in all", "exchange", "us", "x one rank"]
        head += ["dispatch us", "experts us", "combine us"]
        head += [f"{name} {what}" for name in ("out", "back") for what in ("MB", "GB/s", "of bare")]
        yield _row([*head, "error"])
        yield "|" + " --- |" * (len(head) + 1)
        for point, layer in self.measured:
            cells = [*point[:3], str(point.num_tokens), layer.exchange, f"{layer.ms * 1e3:.0f}"]
            cells += [f"{layer.speedup:.2f}", f"{layer.dispatch.ms * 1e3:.0f}"]
            cells += [f"{layer.experts_ms * 1e3:.0f}", f"{layer.combine.ms * 1e3:.0f}"]
            cells += [*_moved(layer.dispatch), *_moved(layer.combine)]
            yield _row([*cells, f"{layer.relative_error:.1e}{'' if layer.correct else ' WRONG'}"])


def _moved(phase: Phase) -> list[str]:
    return [f"{phase.bytes / 1e6:.2f}", f"{phase.gbps:.1f}", f"{phase.share:.2f}"]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def run_over_ranks(plan: Plan, args: argparse.Namespace) -> None:
    """Measure every layer of the plan; rank 0 prints, and writes to ``args.out``.

    Raises ValueError where torchrun did not start this process, RankError where a rank is missing.
    """
    if not started_by_torchrun():
        raise ValueError(
            "--ranks measures over ranks that torchrun starts: torchrun --nproc-per-node N "
            "-m moe_rules bench --ranks ..."
        )
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    with process_group(kind, args.rank_timeout) as (ranks, device), torch.inference_mode():
        (seed,) = ranks.gather([plan.seed], device)[0]  # drawn by each rank, where it is not given
        plan = replace(plan, seed=int(seed))
        results = RanksResults(_facts(kind, ranks.size, plan))
        for point, layer in _measured(plan, args.exchange, ranks, device):
            results.measured.append((point, layer))
            if this_rank() == 0:
                results.write(args.out)
    if this_rank() == 0:
        print("\n".join(results.markdown()))


def _measured(
    plan: Plan, exchanges: list[str], ranks: Ranks, device: torch.device
) -> Iterator[tuple[Point, LayerOverRanks]]:
    """Each point of the plan, with each exchange."""
    parallel = FusedMoEParallelConfig.make(dp_size=ranks.size, enable_expert_parallel=True)
    start = time.monotonic()
    for batch in plan.batches():
        scheme = plan.schemes[batch[0].scheme]
        kernel = _kernel_on(device, scheme)
        if kernel is None:
            continue
        # The whole layer, of which a named shape may be one rank's share.
        shape = replace(plan.shapes[batch[0].shape], ep_size=1)
        whole = draw_layer(shape, scheme, plan.seed, device=str(device))
        spread = SpreadLayer(ranks, whole, kernel, parallel)
        for point in batch:
            seed = plan.seed + point.num_tokens
            drawn = (point.num_tokens, point.routing, 1, seed)
            (tokens,) = draw_workload(whole, shape, scheme, *drawn).inputs
            for exchange in exchanges:
                late = plan.seconds is not None and time.monotonic() - start > plan.seconds
                if any(value for (value,) in ranks.gather([late], device)):
                    return
                try:
                    layer = spread.measure(tokens, exchange)
                except ValueError as error:  # on every rank: not between these hosts
                    if this_rank() == 0:
                        print(f"{exchange} is left out: {error}", file=sys.stderr)
                    continue
                yield point, layer


def _kernel_on(device: torch.device, scheme: Scheme) -> str | None:
    return scheme.cpu_kernel if device.type == "cpu" else scheme.kernel


def _facts(kind: str, size: int, plan: Plan) -> dict[str, Any]:
    """What the figures depend on."""
    facts: dict[str, Any] = {"ranks": size, "torch": torch.__version__, "seed": plan.seed}
    if kind == "cuda":
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        return {**facts, "device": torch.cuda.get_device_name(), "nccl": nccl}
    threads = torch.get_num_threads()
    return {**facts, "device": platform.processor() or platform.machine(), "threads": threads}
