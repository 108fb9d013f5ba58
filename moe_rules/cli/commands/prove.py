"""``moe-rules prove``: policies that hold of all deployments, or a counterexample."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from moe_rules.cli.options import Subparsers, add_report, add_rules, command, run_report

if TYPE_CHECKING:
    from moe_rules.reporting import Report


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "prove",
        "prove policies of all deployments",
        "Files that end in .policy.yaml hold policies: what always or never comes out, or that it\n"
        "is the same with other values of some facts. Each is proven of every deployment that can\n"
        "be, or contradicted by one that explain can be run on. Those of a folder of rules are\n"
        "about the packaged tables with the folder as an overlay. Exit code 0: all are proven; 1:\n"
        "findings; 2: cannot run.",
        "moe-rules prove mine",
    )
    add_report(parser, "files of policies, or folders of rules")
    add_rules(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prove every policy, and report those that are not proven."""
    from moe_rules.cli.policies import prove_files
    from moe_rules.language.ruleset import overlay_paths

    def make() -> Report:
        return prove_files(args.paths, overlay_paths(args.rules, args.release))

    return run_report(args, make)
