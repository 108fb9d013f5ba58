"""Whole models of transformers, random weights: tokens per second and memory, by implementation.

    python -m benchmarks.transformers_generate --model qwen3-30b-a3b --modes eager graph compiled

For each mode and experts implementation: prefill of one prompt, and decode steps (greedy, static
cache) at several batch sizes. Modes: ``eager`` is Python as transformers runs it; in ``graph`` a
decode step or a prefill is one CUDA graph, so that Python costs nobody anything; ``compiled`` is
that after ``torch.compile(fullgraph=True)``. The implementation eager looks at ids
on the host, which no graph takes, so it has the first mode alone. Every implementation computes
with the same model; peak memory counts weights and caches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

import moe_rules.integrations.transformers as integration

PROMPT = 64
"""Tokens that are in the cache before the first step, computed by grouped_mm for everyone."""

WARM_UP = 3
"""Steps before one becomes a CUDA graph."""

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-30b-a3b": (
        "Qwen3Moe",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        },
    ),
    "gpt-oss-20b": (
        "GptOss",
        {
            "vocab_size": 201088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 24,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 32,
            "num_experts_per_tok": 4,
        },
    ),
    "tiny": (
        "Qwen3Moe",
        {
            "vocab_size": 128,
            "hidden_size": 64,
            "moe_intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_experts": 8,
            "num_experts_per_tok": 2,
        },
    ),
}
"""The class, without its ending, and the fields of the configuration that differ from its own."""


MODES = ("eager", "graph", "compiled")


def layers_of(name: str) -> int:
    """How many layers a model has."""
    layers: int = MODELS[name][1]["num_hidden_layers"]
    return layers


def build(name: str, layers: int | None, device: str, attention: str | None = None) -> Any:
    """The model in bf16, weights drawn on the device."""
    prefix, fields = MODELS[name]
    fields = {**fields, "num_hidden_layers": layers or layers_of(name)}
    config = getattr(transformers, f"{prefix}Config")(**fields)
    torch.manual_seed(0)
    with torch.device(device):
        cls = getattr(transformers, f"{prefix}ForCausalLM")
        kwargs = {} if attention is None else {"attn_implementation": attention}
        return cls._from_config(config, dtype=torch.bfloat16, **kwargs).eval()


def tokens(model: Any, *shape: int) -> torch.Tensor:
    """Random ids."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, shape, generator=generator).to(model.device)


def seconds(call: Callable[[], object], options: argparse.Namespace, device: torch.device) -> float:
    """The median time of a call, after one to warm up: of so many, or of those that time allows."""
    times: list[float] = []
    call()
    until = time.perf_counter() + options.seconds
    while len(times) < options.repeats and (not times or time.perf_counter() < until):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def prefill_rate(model: Any, length: int, mode: str, options: argparse.Namespace) -> float:
    """Tokens per second of one prompt, whose keys and values go to a cache."""
    prompt = tokens(model, 1, length)
    forward = forward_of(model, mode)

    def call() -> None:  # without a cache, a graph would get a mask that attention is slow with
        forward(input_ids=prompt, use_cache=True, logits_to_keep=1)

    run = call if mode == "eager" else captured(call)
    return length / seconds(run, options, model.device)


def decode_rate(
    model: Any, implementation: str, batch: int, mode: str, options: argparse.Namespace
) -> float:
    """Tokens per second of all sequences."""
    length = PROMPT + options.repeats + WARM_UP + 2
    cache = transformers.StaticCache(config=model.config, max_cache_len=length)
    ids = tokens(model, batch, PROMPT)
    model.set_experts_implementation("grouped_mm")
    last = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[:, -1].argmax(-1)
    ids = last[:, None].clone()
    model.set_experts_implementation(implementation)
    forward = forward_of(model, mode)

    def step() -> None:
        logits = forward(input_ids=ids, past_key_values=cache).logits
        ids.copy_(logits[:, -1].argmax(-1, keepdim=True))

    run = step if mode == "eager" else captured(step)
    return batch / seconds(run, options, model.device)


def forward_of(model: Any, mode: str) -> Callable[..., Any]:
    """The model, compiled anew where the mode is to compile."""
    if mode != "compiled":
        return model  # type: ignore[no-any-return]
    torch.compiler.reset()
    compiled: Callable[..., Any] = torch.compile(model, fullgraph=True)
    return compiled


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """``step`` as a CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def measured(
    model: Any, implementation: str, mode: str, options: argparse.Namespace
) -> dict[str, float]:
    """The figures of one implementation, by column; what fails is said, and left out."""
    model.set_experts_implementation(implementation)
    on_gpu = model.device.type == "cuda"
    columns: dict[str, Callable[[], float]] = {
        f"decode {batch}": lambda batch=batch: decode_rate(  # type: ignore[misc]
            model, implementation, batch, mode, options
        )
        for batch in options.batch
    }
    if options.prefill:
        columns[f"prefill {options.prefill}"] = lambda: prefill_rate(
            model, options.prefill, mode, options
        )
    figures: dict[str, float] = {}
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for column, measure in columns.items():
        start = time.perf_counter()
        try:
            figures[column] = measure()
        except Exception as error:
            line = str(error).strip().splitlines() or [""]
            name = f"{mode}, {implementation}, {column}"
            print(f"{name}: {type(error).__name__}: {line[0][:200]}", flush=True)
        if options.progress:
            took = time.perf_counter() - start
            print(f"{mode}, {implementation}, {column}: {took:.1f} s", file=sys.stderr)
    if on_gpu:
        figures["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


def table(results: dict[str, dict[str, float]]) -> str:
    """All figures, and ours over the fastest other in each column of rates."""
    columns = list(dict.fromkeys(column for figures in results.values() for column in figures))
    rows = [f"| implementation | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for name, figures in results.items():
        cells = [f"{figures[c]:.4g}" if c in figures else "-" for c in columns]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    ours = results.get(integration.NAME, {})
    ratios = []
    for column in columns:
        others = [f[column] for n, f in results.items() if n != integration.NAME and column in f]
        if not others or column not in ours:
            ratios.append("-")
            continue
        best = (min if column.startswith("peak") else max)(others)
        ratios.append(f"{ours[column] / best:.2f}")
    return "\n".join([*rows, f"| ours / best other | {' | '.join(ratios)} |"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transformers_generate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--model", choices=MODELS, default="qwen3-30b-a3b")
    parser.add_argument("--layers", type=int, help="so many layers instead of all")
    parser.add_argument(
        "--implementations", nargs="+", default=["eager", "grouped_mm", "batched_mm"]
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["eager"])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--prefill", type=int, default=4096, help="tokens of the prompt; 0: none")
    parser.add_argument("--repeats", type=int, default=32, help="calls that are timed, at most")
    parser.add_argument("--seconds", type=float, default=2.0, help="to time calls in, at most")
    parser.add_argument("--progress", action="store_true", help="say how long each figure took")
    parser.add_argument("--attention", help="transformers' attn_implementation")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    model = build(options.model, options.layers, options.device, options.attention)
    where = options.device
    if where == "cuda":
        where = torch.cuda.get_device_name()
    print(
        f"{options.model}, {model.config.num_hidden_layers} of {layers_of(options.model)} layers, "
        f"bf16, {model.config._attn_implementation} attention, {where}, "
        f"transformers {transformers.__version__}, torch {torch.__version__}; tokens per second",
        flush=True,
    )
    for mode in options.modes:
        results = {}
        for name in [*options.implementations, integration.NAME]:
            if name == "eager" and mode != "eager":
                continue
            with torch.no_grad():
                results[name] = measured(model, name, mode, options)
        print(f"\n{mode}\n{table(results)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
