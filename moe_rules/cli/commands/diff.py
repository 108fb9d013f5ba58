"""``moe-rules diff``: where two rule sets decide differently, of all deployments."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from moe_rules.cli.options import (
    Subparsers,
    add_exit_zero,
    add_format,
    add_model,
    add_narrowing,
    add_release,
    add_show,
    add_software,
    add_stated,
    command,
)


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "diff",
        "show where two rule sets decide differently",
        "Of all deployments that can be, every region in which another backend, kernel or error\n"
        "comes out: its conditions, what it got before and gets now, and a deployment in it. What\n"
        "is not listed is decided alike, which is proven and not sampled.\n"
        'Each of BEFORE and AFTER is a folder of rules, an overlay, a file, "packaged", a release\n'
        "(0.32), or a git revision (REVISION or REVISION:PATH; the rules are in rules/ if PATH\n"
        "does not say so). --release is what overlays lie on.\n"
        "One alone is compared with the packaged rules, a revision with the working tree, and\n"
        "A..B are two revisions. Exit code 0: alike; 1: different; 2: cannot compare.",
        "moe-rules diff packaged mine/ --machine h100 --model config.json",
    )
    parser.add_argument("before", metavar="BEFORE", help="rules, as above")
    parser.add_argument("after", metavar="AFTER", nargs="?", help="rules, as above")
    add_release(parser)
    narrow = parser.add_argument_group("to ask about some deployments alone")
    add_narrowing(narrow)
    add_software(narrow)
    add_model(narrow)
    add_stated(narrow)
    add_show(parser)
    add_exit_zero(parser, "regions differ as well, for what only shows them")
    add_format(parser, "text", "markdown", "json", "github")
    parser.set_defaults(
        run=run, weight=None, activation_key=None, quantization=None, quantization_config=None
    )


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from moe_rules.cli.difference_formats import FORMATS
    from moe_rules.cli.differing import Comparison, compare
    from moe_rules.cli.narrowing import check_narrowing
    from moe_rules.cli.rule_sets import rule_sets
    from moe_rules.files.releases import release_of

    check_narrowing(args)
    release = None if args.release is None else release_of(args.release)
    with ExitStack() as stack:
        named = rule_sets(args.before, args.after, stack)
        before, after = (one.over(release) for one in named)
        found: Comparison = compare(args, before, after)
    print(FORMATS[args.format](found, args.show))
    return int(not found.equal and not args.exit_zero)
