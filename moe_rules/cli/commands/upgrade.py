"""``moe-rules upgrade``: what another release of vLLM changes, of models or of anything."""

from __future__ import annotations

import argparse

from moe_rules.cli.options import (
    Subparsers,
    add_exit_zero,
    add_format,
    add_model,
    add_narrowing,
    add_quantization,
    add_show,
    add_software,
    add_stated,
    command,
)


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "upgrade",
        "show what another release of vLLM changes",
        "Of models on machines: which layers get another backend or kernel, are no longer served,\n"
        "or served now; as they are deployed, and wherever users ask for something (requests and\n"
        "switches stay open). Without --model, of every deployment that can be. And the requests,\n"
        "switches, backends, kernels and facts that appear or vanish; without --model, so do\n"
        "architectures and quantization methods. What is not listed is decided alike, which is\n"
        "proven.\n"
        "Exit code 0: nothing changes; 1: something does; 2: cannot compare.",
        "moe-rules upgrade --from 0.32 --to 0.33 --model config.json --machine h100",
    )
    parser.add_argument(
        "--from",
        dest="before",
        metavar="RELEASE",
        help="moe-rules list releases has their names; default: the one before --to",
    )
    parser.add_argument("--to", dest="after", metavar="RELEASE", help="default: the latest")
    narrow = parser.add_argument_group("to ask about some deployments alone")
    add_narrowing(narrow)
    add_software(narrow)
    add_model(narrow, several=True)
    add_quantization(narrow)
    add_stated(narrow)
    add_show(parser)
    add_exit_zero(parser, "something changes as well, for what only shows it")
    add_format(parser, "text", "markdown", "json")
    parser.set_defaults(run=run, weight=None, activation_key=None)


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from moe_rules.cli.narrowing import check_narrowing
    from moe_rules.cli.rule_sets import release_pair
    from moe_rules.cli.upgrade_formats import FORMATS
    from moe_rules.cli.upgrading import upgrade

    check_narrowing(args)
    found = upgrade(args, *release_pair(args.before, args.after))
    print(FORMATS[args.format](found, args.show))
    return int(not found.equal and not args.exit_zero)
