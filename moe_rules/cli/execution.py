"""Runs one layer on the kernel that was selected: error against the reference, and time.

The only module of the command line that imports torch, and it does so when it runs.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moe_rules.cli.errors import UserError
from moe_rules.cli.render import note

if TYPE_CHECKING:
    from moe_rules.engine.decision import Decision
    from moe_rules.vocabulary.layer import FusedMoEConfig
    from moe_rules.vocabulary.quant_keys import QuantKey

GIGABYTE = 10**9
WARM_UPS = 2
MAX_RUNS = 20
MAX_SECONDS = 3.0
_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Execution:
    """What came of one run. Errors are against the float64 reference; times in milliseconds.

    ``relative_error`` and ``error_bound`` are those of :mod:`moe_kernels.reference`.
    ``reductions`` say what was made smaller than the layer that was decided.
    """

    kernel: str
    module: str
    device: str
    software: str
    dtype: str
    num_tokens: int
    num_experts: int
    seed: int
    reductions: tuple[str, ...]
    max_abs_error: float
    relative_error: float
    error_bound: float
    median_ms: float
    runs: int

    @property
    def correct(self) -> bool:
        """The error is within the bound."""
        return self.relative_error <= self.error_bound

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return {**dataclasses.asdict(self), "correct": self.correct}

    def lines(self) -> list[str]:
        """For a person."""
        verdict = "within" if self.correct else "BEYOND"
        return [
            f"ran {self.kernel} ({self.module}) on {self.device}: {self.num_tokens} tokens, "
            f"{self.num_experts} experts, {self.dtype}, random weights (seed {self.seed})",
            *(f"  reduced: {reduction}" for reduction in self.reductions),
            f"  error against the float64 reference: max abs {self.max_abs_error:.2e}, "
            f"relative {self.relative_error:.2e}, {verdict} the bound {self.error_bound:.0e}",
            f"  time: {self.median_ms:.3f} ms, median of {self.runs} runs ({self.software})",
        ]


def execute(
    decision: Decision,
    moe: FusedMoEConfig,
    *,
    num_tokens: int = 16,
    device: str | None = None,
    seed: int = 0,
    max_weight_bytes: float = 1.5 * GIGABYTE,
) -> Execution:
    """Bind the kernel of a decision and run it on a random layer, saying which step is at work.

    ``device`` None: the decision's platform. The number of experts is reduced until the weights
    fit into ``max_weight_bytes``. Raises UserError (exit code 1) where the kernel cannot be had or
    does not run here.
    """
    name, module, chosen = kernel_here(decision, device)
    import torch
    from moe_kernels.reference import relative_error
    from moe_kernels.registry import KernelUnavailableError
    from moe_kernels.registry.bind import bind
    from moe_kernels.testing import random_layer

    # Oracles and backends may say how a layer is quantized where the checkpoint does not.
    weight_key, activation_key, group_size = scheme_of(decision)
    reduced, reductions = reduced_to(moe, weight_key, max_weight_bytes)
    try:
        note(f"making random weights of {reduced.num_experts} experts on {chosen}")
        layer = random_layer(
            reduced,
            weight_key,
            activation_key,
            num_tokens,
            chosen,
            seed,
            group_size=group_size,
        )
        kernel = bind(name, reduced, layer.quant_config, oracle=decision.oracle)
        with torch.inference_mode():
            note(f"running {name}")
            output = kernel.apply(**layer.arguments())
            note("computing the float64 reference")
            expected = layer.reference(kernel)
            note(f"timing {name}")
            times = _times(lambda: kernel.apply(**layer.arguments()), chosen)
    except (KernelUnavailableError, NotImplementedError, ValueError) as error:
        raise UserError(str(error), 1) from error
    return Execution(
        kernel=name,
        module=module,
        device=chosen,
        software=software(chosen),
        dtype=reduced.in_dtype,
        num_tokens=num_tokens,
        num_experts=reduced.num_experts,
        seed=seed,
        reductions=reductions,
        max_abs_error=float((output.to(expected.dtype) - expected).abs().max()),
        relative_error=relative_error(output, expected),
        error_bound=layer.error_bound(kernel),
        median_ms=1e3 * statistics.median(times),
        runs=len(times),
    )


def kernel_here(decision: Decision, device: str | None) -> tuple[str, str, str]:
    """The kernel of a decision, its module, and the device to run it on ("cpu" or "cuda").

    Raises UserError (exit code 1) where there is none, or not here.
    """
    if decision.kernel is None:
        from moe_rules.engine.because import because

        text, place = because(decision)
        raise UserError(
            f"{decision.backend} was selected, which has no kernel to run: {text}  ({place.short})",
            1,
        )
    try:
        import torch
    except ImportError:
        raise UserError("running needs torch: pip install 'moe-rules[kernels]'", 1) from None
    from moe_kernels.registry import KernelUnavailableError, resolve

    try:
        cls = resolve(decision.kernel, oracle=decision.oracle)
    except KernelUnavailableError as error:
        raise UserError(str(error), 1) from error
    chosen = device or ("cuda" if decision.platform in ("cuda", "rocm") else "cpu")
    if chosen == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"{decision.kernel} was selected for {decision.platform}; torch sees no GPU here "
            "(--device cpu runs kernels that can on the CPU)",
            1,
        )
    return decision.kernel, cls.__module__, chosen


def scheme_of(decision: Decision) -> tuple[QuantKey | None, QuantKey | None, int | None]:
    """The keys of weights and activations that the kernel was asked with, and the group size."""
    from moe_rules.vocabulary.quant_keys import QuantKey

    weight, activation, size = (
        decision.kernel_facts.get(name) for name in ("weight_key", "activation_key", "group_size")
    )
    return (
        weight if isinstance(weight, QuantKey) else None,
        activation if isinstance(activation, QuantKey) else None,
        size if isinstance(size, int) else None,
    )


def reduced_to(
    moe: FusedMoEConfig, weight_key: QuantKey | None, max_bytes: float
) -> tuple[FusedMoEConfig, tuple[str, ...]]:
    """The layer with as many experts as fit, and what that changed, in words."""
    matrices = 3 if moe.is_act_and_mul else 2
    elements = matrices * moe.hidden_dim * moe.intermediate_size_per_partition
    per_expert = elements * (_BYTES[moe.in_dtype] if weight_key is None else 1)
    fit = int(max_bytes // per_expert)
    if fit >= moe.num_local_experts:
        return moe, ()
    if fit == 0:
        raise UserError(
            f"one expert's weights take {per_expert / GIGABYTE:.2g} GB; --max-weights-gb "
            f"leaves {max_bytes / GIGABYTE:.2g} for each rank",
            1,
        )
    experts = fit * moe.moe_parallel_config.ep_size
    topk = min(moe.experts_per_token, experts)
    said = [
        f"run with {experts} of {moe.num_experts} experts, so that the weights fit into "
        f"{max_bytes / GIGABYTE:g} GB"
    ]
    if topk < moe.experts_per_token:
        said.append(f"each token is routed to {topk} experts instead of {moe.experts_per_token}")
    return dataclasses.replace(moe, num_experts=experts, experts_per_token=topk), tuple(said)


def _times(call: Callable[[], object], device: str) -> list[float]:
    """Seconds of single calls: after some to warm up, until there are enough."""
    import torch

    def synchronise() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UPS):
        call()
    times: list[float] = []
    while len(times) < MAX_RUNS and (len(times) < 3 or sum(times) < MAX_SECONDS):
        synchronise()
        start = time.perf_counter()
        call()
        synchronise()
        times.append(time.perf_counter() - start)
    return times


def software(device: str) -> str:
    """The device by name, and the versions that a time depends on."""
    import torch

    if device == "cuda":
        import triton

        name = torch.cuda.get_device_name()
        return f"{name}, torch {torch.__version__}, triton {triton.__version__}"
    from moe_rules.machines.detection import detect

    name = detect().name
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
