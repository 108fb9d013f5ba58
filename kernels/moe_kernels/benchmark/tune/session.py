"""A tuning run: layers and numbers of tokens in turn, within a time, recorded as they end."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence

from moe_kernels.benchmark.shapes import SCHEMES, SHAPES
from moe_kernels.benchmark.tune.layers import TuneLayer, named_layers
from moe_kernels.benchmark.tune.measurer import DeviceError, Measurer, Progress
from moe_kernels.benchmark.tune.options import add_options
from moe_kernels.benchmark.tune.record import Measured, Record, RecordError

RECORD = "measured.jsonl"
CONFIGS = "configs"
"""Where a run's folder has its record and its tables of tilings."""

LEAST_SECONDS = 1.0
"""A layer that was drawn is measured for so long at least."""


def tune(
    layers: Sequence[TuneLayer],
    tokens: Sequence[int],
    measurer: Measurer,
    record: Record,
    seconds: float,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Measure what the record lacks; returns how many layers and numbers of tokens it still lacks.

    No layer begins after ``seconds``; until then every layer gets its share, and what one does not
    need is for the next ones.
    """
    end = clock() + seconds
    todo = {}
    for layer in layers:
        known = record.of(str(layer))
        left = [num_tokens for num_tokens in sorted(set(tokens)) if num_tokens not in known]
        if left:
            todo[layer] = left
    if todo:
        points = [(layer, n) for layer, left in todo.items() for n in left]
        measurer.prepare(points, seconds, progress)
    progress.begin("measuring", sum(map(len, todo.values())))
    lacking = 0
    for i, (layer, left) in enumerate(todo.items()):
        now = clock()
        layer_end = now + (end - now) / (len(todo) - i)
        for j, num_tokens in enumerate(left):
            if clock() >= layer_end:
                lacking += len(left) - j
                progress.note(f"no time left for {layer} with {left[j:]} tokens")
                break
            if j == 0:
                measurer.load(layer, progress)
                # What loading takes is no reason to measure nothing then.
                layer_end = max(layer_end, clock() + LEAST_SECONDS)
            share = (layer_end - clock()) / (len(left) - j)
            found = measurer.measure(num_tokens, share, progress)
            record.add(found)
            progress.step("\n".join(map(in_words, found)))
    return lacking


def in_words(measured: Measured) -> str:
    """A measurement in a line."""
    text = f"{measured.layer}, {measured.num_tokens} tokens: {measured.kernel} {measured.us:.1f} us"
    return f"{text} {tiling_in_words(measured)}".rstrip()


def tiling_in_words(measured: Measured) -> str:
    """What the search for a tiling found, in a few words; "" if there was none."""
    tiling = measured.tiling
    if tiling is None:
        return ""
    up, down = tiling.config
    gain = tiling.heuristic_us / measured.us
    return f"{gain:.2f}x the rules of thumb, up {up}, down {down}, of {tiling.tried}"


def command_of(program: str, words: Sequence[str]) -> str:
    """The command line that measures the same anew, wherever its results go."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--out")
    parser.add_argument("--resume", action="store_true")
    return shlex.join([*program.split(), *parser.parse_known_args(words)[1]])


class Lines:
    """Progress in lines, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._what, self._total, self._done = "", 0, 0

    def begin(self, what: str, total: int) -> None:
        """Say what begins."""
        self._what, self._total, self._done = what, total, 0
        self.note(f"{what}: {total}")

    def step(self, said: str) -> None:
        """Say what came of it; of steps of which nothing came, every tenth of all."""
        self._done += 1
        if said or self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            self.note(f"{self._what} {self._done}/{self._total} {said}".rstrip())

    def note(self, said: str) -> None:
        """Say it."""
        print(f"{time.monotonic() - self._start:6.1f} s {said}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Search tilings of named layers, and write their tables."""
    words = sys.argv[1:] if arguments is None else arguments
    program = "python -m moe_kernels.benchmark.tune"
    parser = argparse.ArgumentParser(prog=program, description=main.__doc__)
    parser.add_argument(
        "--shape", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all"
    )
    parser.add_argument(
        "--scheme", nargs="+", choices=SCHEMES, default=["bf16"], help="default: bf16"
    )
    add_options(parser)
    args = parser.parse_args(words)
    from moe_kernels.benchmark.tune.gpu import GpuMeasurer  # needs Triton

    progress = Lines()
    layers = named_layers((SHAPES[n] for n in args.shape), (SCHEMES[n] for n in args.scheme))
    try:
        measurer = GpuMeasurer(args.routing, args.seed, args.workers)
        record = Record.open(args.out / RECORD, measurer.facts, args.resume)
    except (DeviceError, RecordError) as error:
        sys.exit(f"{program}: error: {error}")
    tune(layers, args.tokens, measurer, record, args.seconds, progress)
    for path in record.write_tables(args.out / CONFIGS, command_of(program, words)):
        progress.note(f"wrote {path}")
