"""``moe-rules verify``: what rules say of all deployments that is hardly meant."""

from __future__ import annotations

import argparse

from moe_rules.cli.options import (
    Subparsers,
    add_release,
    add_report,
    add_warnings_as_errors,
    command,
    run_report,
)


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
    add_report(parser, "files, folders, or names of packaged overlays")
    add_release(parser)
    add_warnings_as_errors(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify and report."""
    from moe_rules.cli.verifying import verify

    return run_report(args, lambda: verify(args.paths, args.release))
