"""``moe-rules verify``: what rules say of all deployments that is hardly meant."""

from __future__ import annotations

import argparse
from pathlib import Path

from moe_rules.cli.options import Subparsers, add_format, command


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "verify",
        "find what no deployment reaches, and what changes no decision",
        "Every finding is exact: it holds of all deployments that can be, and comes with one that\n"
        "shows it where there is one. An overlay is verified on top of the packaged tables, of\n"
        "which what it makes unreachable is a warning. Rules accept what is meant as it is, with\n"
        "a reason. Exit code 0: nothing found; 1: findings; 2: cannot run.",
        "moe-rules verify my-rules/ --format github",
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
    """Verify and report."""
    from moe_rules.cli.verifying import verify
    from moe_rules.reporting import REPORTERS

    report = verify(args.paths)
    print(REPORTERS[args.format].report(report))
    counted = report.problems if args.warnings_as_errors else range(report.count("error"))
    return int(len(counted) > 0)
