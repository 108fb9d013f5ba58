"""``moe-rules check``: validates files of rules, machines and models."""

from __future__ import annotations

import argparse
from pathlib import Path

from moe_rules.cli.options import Subparsers, add_format, command


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "check",
        "validate rule files, overlays and recorded machines",
        "Every finding has its place and the nearest valid name. An overlay is checked together\n"
        "with the packaged files of its platform. Exit code 0: clean; 1: findings; 2: cannot run.",
        "moe-rules check my-rules/ --format github",
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        type=Path,
        help="files, folders, or names of packaged overlays; default: the packaged rules",
    )
    add_format(parser, "text", "json", "github", "sarif", "junit")
    parser.add_argument(
        "--warnings-as-errors", action="store_true", help="exit with 1 for warnings as well"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check and report."""
    from moe_rules.cli.checking import check
    from moe_rules.reporting import REPORTERS

    report = check(args.paths)
    print(REPORTERS[args.format].report(report))
    counted = report.problems if args.warnings_as_errors else range(report.count("error"))
    return int(len(counted) > 0)
