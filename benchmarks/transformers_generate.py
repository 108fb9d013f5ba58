"""Whole models of transformers, random weights: tokens per second and memory, by implementation.

    python -m benchmarks.transformers_generate --model qwen3-30b-a3b --layers 12

For each experts implementation: prefill of one prompt, and decode steps (greedy, static cache) at
several batch sizes; on a GPU a decode step is one CUDA graph, so that Python costs nobody anything,
and eager code, which no graph takes, runs without. Every implementation computes with the same
model; peak memory counts weights and caches.
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

PROMPT = 128
"""Tokens that are in the cache before the first step that counts."""

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


def build(name: str, layers: int | None, device: str) -> Any:
    """The model in bf16, weights drawn on the device."""
    prefix, fields = MODELS[name]
    fields = {**fields, "num_hidden_layers": layers or fields["num_hidden_layers"]}
    config = getattr(transformers, f"{prefix}Config")(**fields)
    torch.manual_seed(0)
    with torch.device(device):
        cls = getattr(transformers, f"{prefix}ForCausalLM")
        return cls._from_config(config, dtype=torch.bfloat16).eval()


def tokens(model: Any, *shape: int) -> torch.Tensor:
    """Random ids."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, shape, generator=generator).to(model.device)


def seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """The median time of one call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def prefill_rate(model: Any, length: int, repeats: int) -> float:
    """Tokens per second of one prompt."""
    prompt = tokens(model, 1, length)
    took = seconds(
        lambda: model(input_ids=prompt, use_cache=False, logits_to_keep=1), repeats, model.device
    )
    return length / took


def decode_rate(model: Any, batch: int, steps: int, repeats: int, graph: bool) -> float:
    """Tokens per second of all sequences, over ``steps`` steps."""
    cache = transformers.StaticCache(
        config=model.config, max_cache_len=PROMPT + steps * (repeats + 2) + 8
    )
    ids = tokens(model, batch, PROMPT)
    last = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[:, -1].argmax(-1)
    ids = last[:, None].clone()

    def step() -> None:
        logits = model(input_ids=ids, past_key_values=cache).logits
        ids.copy_(logits[:, -1].argmax(-1, keepdim=True))

    run: Callable[[], object] = step
    if graph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            step()
        run = captured.replay

    def all_steps() -> None:
        for _ in range(steps):
            run()

    return batch * steps / seconds(all_steps, repeats, model.device)


def measured(model: Any, implementation: str, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one implementation, by column; what fails is said, and left out."""
    model.set_experts_implementation(implementation)
    on_gpu = model.device.type == "cuda"
    columns: dict[str, Callable[[], float]] = {
        f"decode {batch}": lambda batch=batch: decode_rate(  # type: ignore[misc]
            model, batch, options.steps, options.repeats, on_gpu and implementation != "eager"
        )
        for batch in options.batch
    }
    if options.prefill:
        columns[f"prefill {options.prefill}"] = lambda: prefill_rate(
            model, options.prefill, options.repeats
        )
    figures: dict[str, float] = {}
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for column, measure in columns.items():
        try:
            figures[column] = measure()
        except Exception as error:
            line = str(error).strip().splitlines() or [""]
            print(f"{implementation}, {column}: {type(error).__name__}: {line[0]}", flush=True)
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
        best = (min if column.startswith("peak") else max)(others, default=None)
        known = best is not None and column in ours
        ratios.append(f"{ours[column] / best:.2f}" if known else "-")
    return "\n".join([*rows, f"| ours / best other | {' | '.join(ratios)} |"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="qwen3-30b-a3b")
    parser.add_argument("--layers", type=int, help="so many layers instead of all")
    parser.add_argument("--implementations", nargs="+", default=["grouped_mm", "batched_mm"])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--prefill", type=int, default=4096, help="tokens of the prompt; 0: none")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    model = build(options.model, options.layers, options.device)
    where = options.device
    if where == "cuda":
        where = torch.cuda.get_device_name()
    print(
        f"{options.model}, {model.config.num_hidden_layers} layers, bf16, {where}, "
        f"transformers {transformers.__version__}, torch {torch.__version__}; tokens per second"
    )
    results = {}
    with torch.inference_mode():
        for name in [*options.implementations, integration.NAME]:
            results[name] = measured(model, name, options)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
