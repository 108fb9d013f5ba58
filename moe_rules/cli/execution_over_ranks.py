"""Runs one layer on the selected kernel over the ranks that torchrun started."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moe_rules.cli.errors import UserError
from moe_rules.cli.execution import kernel_here, reduced_to, scheme_of, software
from moe_rules.cli.render import note

if TYPE_CHECKING:
    from moe_kernels.benchmark.over_ranks import LayerOverRanks, Phase

    from moe_rules.engine.decision import Decision
    from moe_rules.vocabulary.layer import FusedMoEConfig


def spread(args: argparse.Namespace, ranks: int) -> None:
    """Let the options mean the ranks that there are: data-parallel ones, if they do not say.

    Raises UserError where they mean others, or no expert parallelism.
    """
    if not args.ep:
        raise UserError(f"torchrun started {ranks} ranks: say --ep to spread the experts over them")
    sizes = {name: getattr(args, name) for name in ("tp", "pcp", "dp")}
    if all(size == 1 for size in sizes.values()):
        args.dp = ranks
        return
    meant = args.tp * args.pcp * args.dp
    if meant != ranks:
        words = " ".join(f"--{name} {size}" for name, size in sizes.items() if size > 1)
        raise UserError(f"{words} are {meant} ranks, but torchrun started {ranks}")


@dataclass(frozen=True)
class ExecutionOverRanks:
    """What came of one run, as rank 0 tells it."""

    kernel: str
    module: str
    device: str
    software: str
    dtype: str
    num_experts: int
    seed: int
    reductions: tuple[str, ...]
    layer: LayerOverRanks

    @property
    def correct(self) -> bool:
        """The error is within the bound."""
        return self.layer.correct

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**own, "layer": self.layer.to_dict(), "correct": self.correct}

    def lines(self) -> list[str]:
        """For a person."""
        layer = self.layer
        verdict = "within" if self.correct else "BEYOND"
        return [
            f"ran {self.kernel} ({self.module}) over {layer.ranks} ranks on {self.device}, "
            f"{layer.exchange}: {layer.num_tokens} tokens in all, {self.num_experts} experts, "
            f"{self.dtype}, random weights (seed {self.seed})",
            *(f"  reduced: {reduction}" for reduction in self.reductions),
            f"  error against one rank: relative {layer.relative_error:.2e}, {verdict} what two "
            f"kernels may differ, {2 * layer.error_bound:.0e}",
            f"  time: {layer.ms:.3f} ms, {layer.speedup:.2f} times as fast as one rank's "
            f"{layer.one_rank_ms:.3f} ms ({self.software})",
            f"  experts: {layer.experts_ms:.3f} ms",
            _phase_line("dispatch", layer.dispatch),
            _phase_line("combine", layer.combine),
        ]


def _phase_line(name: str, phase: Phase) -> str:
    return (
        f"  {name}: {phase.ms:.3f} ms; its exchange, timed apart, {phase.exchange_ms:.3f} ms: "
        f"{phase.bytes / 1e6:.3f} MB from a rank, {phase.gbps:.2f} GB/s, {phase.share:.0%} of a "
        "bare all_to_all_single"
    )


def execute_over_ranks(
    decision: Decision,
    moe: FusedMoEConfig,
    *,
    num_tokens: int,
    device: str | None,
    seed: int,
    max_weight_bytes: float,
    timeout: float,
) -> ExecutionOverRanks:
    """Bind the kernel of a decision on every rank, and run it on a random layer.

    ``num_tokens`` in all; rank 0 says which step is at work; otherwise as
    :func:`moe_rules.cli.execution.execute`. Raises UserError (exit code 1) where the kernel cannot
    be had or does not run here, or a rank is missing.
    """
    name, module, chosen = kernel_here(decision, device)
    import torch
    from moe_kernels.benchmark.over_ranks import SpreadLayer
    from moe_kernels.ranks.agreement import RankError
    from moe_kernels.ranks.torchrun import number_of_ranks, process_group
    from moe_kernels.registry import KernelUnavailableError
    from moe_kernels.testing import random_layer

    from moe_rules.vocabulary.layer import FusedMoEParallelConfig

    weight_key, activation_key, group_size = scheme_of(decision)
    # Every rank draws the whole layer.
    one_rank = dataclasses.replace(moe, moe_parallel_config=FusedMoEParallelConfig())
    reduced, reductions = reduced_to(one_rank, weight_key, max_weight_bytes / number_of_ranks())
    try:
        with process_group(chosen, timeout) as (ranks, own), torch.inference_mode():
            if ranks.rank == 0:
                note(f"making random weights of {reduced.num_experts} experts on every rank")
            whole = random_layer(
                reduced, weight_key, activation_key, num_tokens, own, seed, group_size=group_size
            )
            spread = SpreadLayer(
                ranks, whole, name, moe.moe_parallel_config, oracle=decision.oracle
            )
            if ranks.rank == 0:
                note(f"running {name} on one rank and over {ranks.size}, and timing it")
            layer = spread.measure(whole, moe.moe_parallel_config.all2all_backend)
    except (KernelUnavailableError, NotImplementedError, RankError, ValueError) as error:
        raise UserError(str(error), 1) from error
    return ExecutionOverRanks(
        kernel=name,
        module=module,
        device=chosen,
        software=software(chosen),
        dtype=reduced.in_dtype,
        num_experts=reduced.num_experts,
        seed=seed,
        reductions=reductions,
        layer=layer,
    )
