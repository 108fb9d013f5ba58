"""``moe-rules set-priority``: writes an overlay that changes the order of backends."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from moe_rules.cli.errors import UserError
from moe_rules.cli.options import Subparsers, add_machine, add_platform, add_rules, command, count

if TYPE_CHECKING:
    from moe_rules.cli.overlay_edit import Adjustment
    from moe_rules.language.rules import PlatformRules

INTO = Path("moe-rules")
"""The overlay that is written if none is named; the hooks of pre-commit look there as well."""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "set-priority",
        "write an overlay that changes the order of backends",
        "Adds an adjustment to the overlay, or changes the one about this backend under the same\n"
        "condition; no other line of its files changes. What is decided otherwise then is shown\n"
        "as by moe-rules diff. Exit code 1: nothing is, and nothing is written.",
        "moe-rules set-priority fp8 TRITON --first --platform cuda --when ep_size=1 "
        '--because "faster"',
    )
    parser.add_argument("oracle", metavar="ORACLE", help="whose order")
    parser.add_argument("backend", metavar="BACKEND", help="the backend that moves")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--first", action="store_true", help="to the front")
    place.add_argument("--last", action="store_true", help="to the end")
    place.add_argument("--before", metavar="OTHER", help="ahead of this one")
    place.add_argument("--after", metavar="OTHER", help="directly behind this one")
    parser.add_argument(
        "--when",
        action="append",
        default=[],
        metavar="FACT=VALUE",
        help="where it holds, VALUE as a rule file has it; repeatable; default: everywhere",
    )
    parser.add_argument("--because", metavar="TEXT", required=True, help="the reason")
    parser.add_argument(
        "--evidence",
        action="append",
        default=[],
        metavar="MAPPING",
        help='a measurement: "{device: H200, date: 2026-11-23, versions: triton 3.6, '
        'figure: 1.2x at 64 tokens}"; repeatable',
    )
    whose = parser.add_mutually_exclusive_group()
    add_platform(whose)
    add_machine(whose, "this machine")
    parser.add_argument(
        "--into",
        metavar="PATH",
        type=Path,
        default=INTO,
        help=f"the overlay, a folder or a file; default: {INTO}",
    )
    parser.add_argument(
        "--show", type=count, default=5, metavar="N", help="regions that are shown; default: 5"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what is decided otherwise, and write nothing"
    )
    add_rules(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show what differs, and write the overlay."""
    from moe_rules.analysis.difference import differences
    from moe_rules.cli.difference_formats import as_text
    from moe_rules.cli.differing import Comparison, Found
    from moe_rules.cli.overlay_edit import Edit
    from moe_rules.cli.rule_sets import RuleSet
    from moe_rules.files.packaged import packaged_rules
    from moe_rules.language.ruleset import overlay_paths

    overlays = overlay_paths(args.rules, args.release)
    edit = Edit.of(args.into, overlays, _platform(args), args.oracle)
    before = edit.rules()
    text = edit.text_with(_adjustment(args, before))
    found = sorted(differences(before, edit.rules(text), args.oracle), key=lambda d: -d.share)
    if not found:
        raise UserError(
            f"it has no effect: {args.oracle} on {edit.platform} decides every layer as before; "
            "nothing was written",
            code=1,
        )
    comparison = Comparison(
        before=RuleSet("the rules so far", packaged_rules()),
        after=RuleSet(str(edit.root), packaged_rules(), (edit.root,), ("--rules", str(edit.root))),
        compared=((edit.platform, args.oracle),),
        platforms=(edit.platform,),
        subjects=(),
        differences=tuple(Found(one, ()) for one in found),
    )
    print(as_text(comparison, args.show))
    if not args.dry_run:
        edit.write(text)
        applies = f"; --rules {edit.root} applies it" if edit.root not in overlays else ""
        print(f"wrote {edit.file}{applies}")
    return 0


def _platform(args: argparse.Namespace) -> str:
    """The kind of device that is named, or that of a machine. Raises UserError, MachineError."""
    from moe_rules.cli.narrowing import platform_called
    from moe_rules.selectors.selector import as_machine

    return (
        as_machine(args.machine).device if args.platform is None else platform_called(args.platform)
    )


def _adjustment(args: argparse.Namespace, rules: PlatformRules) -> Adjustment:
    """What the options say. Raises UserError for names that the rules do not have."""
    from moe_rules.cli.overlay_edit import PLACES, Adjustment, as_in_a_file, conditions_of

    for word in (args.because, *args.when, *args.evidence):
        if any("\ud800" <= sign <= "\udfff" for sign in word):
            raise UserError(f"{word!r} is no UTF-8, which files of rules are written in")
    oracle = _known(args.oracle, rules.oracles, f"the rules of {rules.platform} have no oracle")
    names = rules.oracles[oracle].backends
    nothing = f"oracle {oracle!r} on {rules.platform} has no backend"
    anchor = args.before or args.after
    if anchor == args.backend:
        raise UserError(f"{anchor} cannot move by itself")
    return Adjustment(
        backend=_known(args.backend, names, nothing),
        place=next(place for place in PLACES if getattr(args, place)),
        anchor=None if anchor is None else _known(anchor, names, nothing),
        when=conditions_of(args.when, rules.facts),
        because=args.because,
        evidence=tuple(as_in_a_file(text, "--evidence") for text in args.evidence),
    )


def _known(name: str, names: Collection[str], otherwise: str) -> str:
    from moe_rules.vocabulary.fact_values import did_you_mean

    if name not in names:
        hint = did_you_mean(name, names)
        raise UserError(f"{otherwise} {name!r}{hint} (known: {', '.join(names)})")
    return name
