"""``moe-rules check``: validates files of rules, machines and models."""

from __future__ import annotations

import argparse

from moe_rules.cli.options import (
    Subparsers,
    add_release,
    add_report,
    add_warnings_as_errors,
    command,
    print_report,
)


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
    add_report(parser, "files, folders, or names of packaged overlays")
    add_release(parser)
    add_warnings_as_errors(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check and report."""
    from moe_rules.cli.checking import check

    return print_report(args, check(args.paths, args.release))
