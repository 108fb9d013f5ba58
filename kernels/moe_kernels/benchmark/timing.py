"""Timing under CUDA graphs, and the ceilings of the device."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton

Call = Callable[[], object]


def device_facts() -> dict[str, Any]:
    """The device and the versions that figures depend on."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def capture(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    """A graph of ``calls`` one after the other. Each runs once before, so that it is compiled."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def graph_us(calls: Sequence[Call], replays: int = 7) -> float:
    """Microseconds per call: the median replay of a graph of all ``calls``.

    ``calls`` should read different data, more than the L2 cache holds together.
    """
    graph = capture(calls)
    graph.replay()  # and while it runs, all the others are launched: no time is the host's
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    for _ in range(replays):
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    times: list[float] = [start.elapsed_time(end) * 1e3 / len(calls) for start, end in events]
    return statistics.median(times)


def eager_us(call: Call, repeats: int = 50) -> float:
    """Microseconds per call without a graph: the host's time to launch, or the device's to run."""
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats * 1e6


def call_bytes(call: Call) -> int:
    """Bytes of device memory that a call takes at its peak, its result included."""
    call()  # what it keeps for the next one, it has then
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def launches(calls: Sequence[Call]) -> list[tuple[str, float]]:
    """Name and microseconds of everything that one call runs on the device, in order.

    Medians over ``calls``. Launches that overlap their predecessor count in full. Raises
    RuntimeError if the profiler saw nothing, or calls that differ.
    """
    from torch.profiler import ProfilerActivity, profile

    for call in calls:
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for call in calls:
            call()
        torch.cuda.synchronize()
    events = [e for e in profiler.events() or [] if e.device_type.name == "CUDA"]
    events.sort(key=lambda event: event.time_range.start)
    size = len(events) // len(calls)
    chunks = [events[i * size : (i + 1) * size] for i in range(len(calls))]
    names = [[event.name for event in chunk] for chunk in chunks]
    if size == 0 or any(other != names[0] for other in names):
        raise RuntimeError(f"{len(events)} launches in {len(calls)} calls are not alike")
    return [
        (name, statistics.median(chunk[i].time_range.elapsed_us() for chunk in chunks))
        for i, name in enumerate(names[0])
    ]


def memory_gbps() -> dict[str, float]:
    """Bandwidth of kernels that copy (bytes read and written) and that only read 4 GiB."""
    source = torch.empty(1 << 30, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(source)
    size = source.numel() * source.element_size()
    # Not copy_: graphs run it on the copy engine, which is slower.
    copy_us = graph_us([lambda: torch.neg(source, out=target)] * 4)
    read_us = graph_us([lambda: torch.amax(source)] * 4)
    return {"copy_gbps": 2 * size / copy_us * 1e-3, "read_gbps": size / read_us * 1e-3}


def ceilings(size: int = 8192) -> dict[str, float]:
    """What this device reaches: memory bandwidth in GB/s, products of ``size`` in TFLOPS.

    Random data: products of zeros run faster. A product that torch does not have is missing.
    """
    result = memory_gbps()
    a, b = torch.randn(2, size, size, dtype=torch.bfloat16, device="cuda")
    out = torch.empty_like(a)
    a16, b16 = a.half(), b.half()
    out16 = torch.empty_like(a16)
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
    i8, j8 = (x.mul(40).clamp(-127, 127).to(torch.int8) for x in (a, b))
    one = torch.ones((), device="cuda")
    products: dict[str, Call] = {
        "bf16_tflops": lambda: torch.mm(a, b, out=out),
        "fp16_tflops": lambda: torch.mm(a16, b16, out=out16),
        "fp8_tflops": lambda: torch._scaled_mm(a8, b8, one, one, out_dtype=torch.bfloat16),
        "int8_tflops": lambda: torch._int_mm(i8, j8.t()),
    }
    rounds = 8  # long enough that clocks settle under load
    for name, product in products.items():
        try:
            result[name] = 2.0 * size**3 / graph_us([product] * rounds) * 1e-6
        except (AttributeError, RuntimeError) as error:
            print(f"no ceiling {name}: {error}")
    return result
