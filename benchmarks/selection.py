"""Microseconds of a warm selection, and seconds of a fresh process: to a decision, and of `select`.

python -m benchmarks.selection
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from moe_rules.selectors.selector import Selector, as_machine, selector_for
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey

CALLS = 3000
TOGETHER = 100
FIRST = """
from moe_rules import FusedMoEConfig, select_backend
layer = FusedMoEConfig(
    num_experts=128, experts_per_token=8, hidden_dim=2048, intermediate_size=768,
)
select_backend("unquantized", layer, machine="h100", environ={})
"""
MODEL = Path(__file__).parents[1] / "examples/models/Qwen3-30B-A3B-FP8.json"
PROCESSES = {
    "the first decision": ["-c", FIRST],
    "moe-rules select --model": f"-m moe_rules select --model {MODEL} --machine h100".split(),
}
SCHEMES: dict[str, tuple[str, str | None, str | None]] = {
    "unquantized": ("unquantized", None, None),
    "fp8, 128x128 blocks": ("fp8", "kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
    "fp8, per tensor, static": ("fp8", "kFp8StaticTensorSym", "kFp8StaticTensorSym"),
    "fp8, per channel and token": ("fp8", "kFp8StaticChannelSym", "kFp8DynamicTokenSym"),
}


def layers(count: int) -> Iterator[FusedMoEConfig]:
    """Layers that differ, so that no decision is remembered."""
    for i in range(count):
        yield FusedMoEConfig(
            num_experts=128,
            experts_per_token=8,
            hidden_dim=2048 + 128 * i,
            intermediate_size=768,
            routing_method="RenormalizeNaive",
        )


def microseconds(
    selector: Selector, oracle: str, weight: QuantKey | None, activation: QuantKey | None
) -> tuple[float, float, str]:
    """Median of a selection with new layer facts, with repeated ones, and what was selected.

    Repeated ones take less than reading the clock does, so many are timed together.
    """
    options = {"allow_vllm_cutlass": False} if oracle == "fp8" else {}
    configs = list(layers(CALLS))

    def once(config: FusedMoEConfig) -> float:
        start = time.perf_counter_ns()
        selector.select(oracle, config, weight, activation, **options)
        return (time.perf_counter_ns() - start) / 1000

    def again(config: FusedMoEConfig) -> float:
        start = time.perf_counter_ns()
        for _ in range(TOGETHER):
            selector.select(oracle, config, weight, activation, **options)
        return (time.perf_counter_ns() - start) / 1000 / TOGETHER

    selector.compiled(oracle, *options)
    selector.select(oracle, next(layers(1)), weight, activation, **options)
    new = statistics.median([once(config) for config in configs[1:]])
    repeated = statistics.median([again(configs[5]) for _ in range(CALLS // TOGETHER)])
    decision = selector.select(oracle, configs[5], weight, activation, **options)
    return new, repeated, str(decision.backend)


def main() -> None:
    """Print the figures as a Markdown table."""
    print(f"Python {sys.version.split()[0]}, named machine h100, median of {CALLS} calls\n")
    print("| call | selected | new layer facts | repeated |\n| --- | --- | --- | --- |")
    for name, (oracle, weight, activation) in SCHEMES.items():
        selector = selector_for(as_machine("h100"))
        keys = [None if key is None else NAMED_KEYS[key] for key in (weight, activation)]
        new, repeated, backend = microseconds(selector, oracle, *keys)
        print(f"| {name} | {backend} | {new:.1f} us | {repeated:.2f} us |")
    print("\nFresh process, medians of 7")
    for what, arguments in PROCESSES.items():
        seconds = [_seconds_of([sys.executable, *arguments]) for _ in range(7)]
        print(f"{what}: {statistics.median(seconds):.2f} s")


def _seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
