"""``moe-rules test``: holds examples beside rules against them."""

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
        "test",
        "run the examples beside rules",
        "Files that end in .test.yaml hold examples: facts, and what has to come out. Those of a\n"
        "folder of rules are asked of the packaged tables with the folder as an overlay, those of\n"
        "the packaged tables of these alone. Exit code 0: all hold; 1: findings; 2: cannot run.",
        "moe-rules test my-rules/ --coverage --fail-under 80",
    )
    add_report(parser, "files of examples, or folders of rules")
    add_rules(parser)
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="a warning for every line of rules in PATH that makes no difference to an example",
    )
    parser.add_argument(
        "--fail-under",
        metavar="PERCENT",
        type=_percent,
        help="an error if fewer lines of rules in PATH make a difference",
    )
    parser.set_defaults(run=run)


def _percent(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")
    return number


def run(args: argparse.Namespace) -> int:
    """Decide every example, and report what does not come out."""
    from moe_rules.cli.examples import run_examples
    from moe_rules.language.ruleset import overlay_paths

    def make() -> Report:
        return run_examples(
            args.paths,
            overlay_paths(args.rules),
            args.release,
            coverage=args.coverage,
            at_least=args.fail_under,
        )

    return run_report(args, make)
