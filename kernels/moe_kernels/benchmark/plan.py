"""What a run measures, in which order, and the options that say so. Imports no torch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_kernels.benchmark.report import Point
from moe_kernels.benchmark.shapes import ROUTINGS, SCHEMES, SHAPES, TOKENS, Scheme, Shape
from moe_kernels.ranks.torchrun import add_timeout

FIXED = "-fixed"
"""After the name of an exchange: with a fixed number of rows."""
EXCHANGES = tuple(
    name + fixed
    for name in ("allgather_reducescatter", "all_to_all_single", "symmetric_memory")
    for fixed in ("", FIXED)
)
"""What layers are measured with over ranks."""

COARSE = 3
"""With little time, every third number of tokens comes first."""


@dataclass(frozen=True)
class Plan:
    """Every shape in every scheme that takes it, with every routing and number of tokens."""

    shapes: Mapping[str, Shape]
    schemes: Mapping[str, Scheme]
    tokens: Sequence[int]
    routings: Sequence[str]
    seed: int
    seconds: float | None = None
    """Start no point after so many."""
    launches: bool = False
    """Whether to record the launches of every call."""

    def layers(self) -> list[tuple[str, str]]:
        """Scheme and shape of every layer."""
        return [
            (scheme, shape)
            for scheme, s in self.schemes.items()
            for shape in self.shapes
            if s.takes(self.shapes[shape])
        ]

    def batches(self) -> Iterator[list[Point]]:
        """All points, those of one layer together as long as it is drawn.

        With a time limit first every layer with few numbers of tokens and one routing, then the
        other numbers, then the other routings: what is there when time is up covers everything.
        """
        passes = [(self.routings, self.tokens)]
        if self.seconds is not None:
            first, others = self.routings[:1], self.routings[1:]
            coarse = self.tokens[::COARSE]
            fine = [tokens for tokens in self.tokens if tokens not in coarse]
            passes = [(first, coarse), (first, fine), (others, self.tokens)]
        for routings, tokens in passes:
            if routings and tokens:
                for layer in self.layers():
                    yield [Point(*layer, r, num_tokens) for r in routings for num_tokens in tokens]

    def lines(self) -> Iterator[str]:
        """What is measured, for a person: layers with their routings and numbers of tokens."""
        batches = list(self.batches())
        for batch in batches:
            routings = ", ".join(dict.fromkeys(point.routing for point in batch))
            tokens = ", ".join(str(n) for n in dict.fromkeys(point.num_tokens for point in batch))
            yield f"{batch[0].scheme} {batch[0].shape}: {routings}; {tokens} tokens"
        points = sum(len(batch) for batch in batches)
        yield f"{len(self.layers())} layers, {points} points for every kernel"


def add_tokens(parser: argparse._ActionsContainer) -> None:
    """The option of how many tokens calls have."""
    parser.add_argument(
        "--tokens",
        nargs="+",
        type=positive,
        default=list(TOKENS),
        metavar="N",
        help=f"tokens of a call; default: {' '.join(map(str, TOKENS))}",
    )


def add_options(parser: argparse._ActionsContainer) -> None:
    """What is measured, and how."""
    parser.add_argument(
        "--shape",
        nargs="+",
        choices=SHAPES,
        metavar="NAME",
        help=f"{', '.join(SHAPES)}; default: all",
    )
    parser.add_argument(
        "--scheme",
        nargs="+",
        choices=SCHEMES,
        metavar="NAME",
        help=f"{', '.join(SCHEMES)}; default: all",
    )
    add_tokens(parser)
    parser.add_argument(
        "--routing", nargs="+", choices=ROUTINGS, default=list(ROUTINGS), help="default: both"
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        default=[],
        metavar="MODULE",
        help="modules with adapters of what to compare with, as well as torch's grouped_mm and "
        "those that installed packages announce",
    )
    parser.add_argument("--parts", action="store_true", help="record every launch of a call too")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="start no measurement after so many, and begin with few numbers of tokens",
    )
    parser.add_argument(
        "--ranks",
        action="store_true",
        help="measure layers over the ranks that torchrun started, instead: against one rank, with "
        "the numbers of tokens in all",
    )
    parser.add_argument(
        "--exchange",
        nargs="+",
        choices=EXCHANGES,
        default=list(EXCHANGES),
        metavar="NAME",
        help=f"with --ranks: {', '.join(EXCHANGES)}, how tokens are sent; fixed: with as many rows "
        "as can be, on GPUs in a CUDA graph; default: all",
    )
    add_timeout(parser)
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, tokens and routings")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/benchmarks"),
        metavar="DIR",
        help="where tables and plots go; default: out/benchmarks",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what is in DIR, and leave out what failed"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="measure nothing: list what would be, on any machine"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="measure nothing: run everything once, in parallel processes, so that it is compiled",
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes that compile; default: one a core"
    )


def plan_of(args: argparse.Namespace) -> Plan:
    """What the options of :func:`add_options` ask for."""
    return Plan(
        shapes={name: SHAPES[name] for name in args.shape or SHAPES},
        schemes={name: SCHEMES[name] for name in args.scheme or SCHEMES},
        tokens=tuple(dict.fromkeys(args.tokens)),
        routings=tuple(dict.fromkeys(args.routing)),
        seed=time.time_ns() % 2**31 if args.seed is None else args.seed,
        seconds=args.seconds,
        launches=args.parts,
    )


def positive(text: str) -> int:
    """A number of things, as an option's type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number
