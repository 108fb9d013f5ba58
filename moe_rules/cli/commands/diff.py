"""``moe-rules diff``: where two rule sets decide differently, of all deployments."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import get_args

from moe_rules.cli import deployment
from moe_rules.cli.options import Subparsers, add_format, command, count


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "diff",
        "show where two rule sets decide differently",
        "Of all deployments that can be, every region in which another backend, kernel or error\n"
        "comes out: its conditions, what it got before and gets now, and a deployment in it. What\n"
        "is not listed is decided alike, which is proven and not sampled.\n"
        'Each of BEFORE and AFTER is a folder of rules, an overlay, a file, "packaged", or a git\n'
        "revision (REVISION or REVISION:PATH; the rules are in rules/ if PATH does not say so).\n"
        "One alone is compared with the packaged rules, a revision with the working tree, and\n"
        "A..B are two revisions. Exit code 0: alike; 1: different; 2: cannot compare.",
        "moe-rules diff packaged mine/ --machine h100 --model config.json",
    )
    parser.add_argument("before", metavar="BEFORE", help="rules, as above")
    parser.add_argument("after", metavar="AFTER", nargs="?", help="rules, as above")
    narrow = parser.add_argument_group("to ask about some deployments alone")
    narrow.add_argument(
        "--platform", action="append", metavar="KIND", help="a kind of device (cuda); repeatable"
    )
    narrow.add_argument(
        "--machine",
        action="append",
        metavar="NAME_OR_FILE",
        help="a named machine (moe-rules list machines) or a recorded file; repeatable",
    )
    narrow.add_argument("--oracle", action="append", metavar="NAME", help="an oracle; repeatable")
    deployment.add_software(narrow)
    deployment.add_model(narrow)
    deployment.add_stated(narrow)
    parser.add_argument(
        "--show",
        type=count,
        default=20,
        metavar="N",
        help="regions in text and markdown; default: 20",
    )
    parser.add_argument(
        "--exit-zero",
        action="store_true",
        help="exit with 0 where regions differ as well, for what only shows them",
    )
    add_format(parser, "text", "markdown", "json", "github")
    parser.set_defaults(
        run=run, weight=None, activation_key=None, quantization=None, quantization_config=None
    )


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from moe_rules.cli.differing import FORMATS, Comparison, compare
    from moe_rules.cli.errors import UserError
    from moe_rules.cli.rule_sets import rule_sets
    from moe_rules.language.files import OracleName
    from moe_rules.language.ruleset import PLATFORMS
    from moe_rules.vocabulary.fact_values import did_you_mean

    for option, given, known in (
        ("--platform", args.platform, PLATFORMS),
        ("--oracle", args.oracle, get_args(OracleName)),
    ):
        for name in given or ():
            if name not in known:
                raise UserError(
                    f"{option} {name}: there is none of that name{did_you_mean(name, known)} "
                    f"(one of {', '.join(known)})"
                )
    with ExitStack() as stack:
        before, after = rule_sets(args.before, args.after, stack)
        found: Comparison = compare(args, before, after)
    print(FORMATS[args.format](found, args.show))
    return int(bool(found.differences) and not args.exit_zero)
