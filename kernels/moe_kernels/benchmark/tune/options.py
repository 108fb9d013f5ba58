"""The options of a tuning run. Imports no torch, so that a command line can list them."""

from __future__ import annotations

import argparse
from pathlib import Path

from moe_kernels.benchmark.plan import add_tokens, positive
from moe_kernels.benchmark.shapes import ROUTINGS


def add_options(parser: argparse._ActionsContainer) -> None:
    """What a run measures and for how long; for the command line too."""
    add_tokens(parser)
    parser.add_argument(
        "--routing",
        choices=ROUTINGS,
        default=ROUTINGS[0],
        help="how tokens choose experts; default: uniform",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=300.0,
        metavar="S",
        help="begin nothing after so many; default: 300",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/tune"),
        metavar="DIR",
        help="where the record, the tables and the rules go; default: out/tune",
    )
    parser.add_argument("--resume", action="store_true", help="go on with what is in DIR")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes that compile; default: one a core"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
