"""``moe-rules facts``: the vocabulary that rules may use."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moe_rules.cli.errors import UserError
from moe_rules.cli.options import Subparsers, add_format, add_release, command

if TYPE_CHECKING:
    from moe_rules.vocabulary.fact_values import Fact


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "facts",
        "list the facts that a rule may test",
        "Name, type, domain and meaning, by group. Derived facts follow from the others and\n"
        "cannot be stated; every other one can be, with --set.",
        "moe-rules facts --group layer",
    )
    parser.add_argument("names", metavar="FACT", nargs="*", help="default: every fact")
    parser.add_argument("--group", help="only this group: platform, software, layer, ...")
    add_release(parser)
    add_format(parser, "text", "json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the vocabulary."""
    facts = _facts(args.names, args.group, args.release)
    if args.format == "json":
        print(json.dumps([_plain(fact) for fact in facts], indent=2))
        return 0
    from moe_rules.cli.render import columns

    for group in dict.fromkeys(fact.group for fact in facts):
        rows = [
            [f"  {fact.name}", fact.type, fact.meaning, f"({fact.domain}){_reading(fact)}"]
            for fact in facts
            if fact.group == group
        ]
        print(f"{group}\n{columns(rows)}\n")
    return 0


def _facts(names: Sequence[str], group: str | None, release: str | None) -> list[Fact]:
    """The facts of a group by name; all where none is named. Raises UserError for wrong names."""
    from moe_rules.files.releases import release_of
    from moe_rules.language.reading import vocabulary
    from moe_rules.language.ruleset import vocabulary_files
    from moe_rules.vocabulary.fact_values import did_you_mean

    overlays = () if release is None else release_of(release).folders
    facts = list(vocabulary(vocabulary_files(overlays)).facts.values())
    groups = list(dict.fromkeys(fact.group for fact in facts))
    if group is not None and group not in groups:
        raise UserError(
            f"--group {group}: there is no such group{did_you_mean(group, groups)} "
            f"(known: {', '.join(groups)})"
        )
    known = {fact.name: fact for fact in facts if group in (None, fact.group)}
    for name in names:
        if name not in known:
            where = "" if group is None else f" in group {group}"
            raise UserError(
                f"there is no fact {name!r}{where}{did_you_mean(name, known)} "
                f"(moe-rules facts lists all, --group NAME those of one of {', '.join(groups)})"
            )
    return [known[name] for name in names or known]


def _reading(fact: Fact) -> str:
    """How the variable's text is read, for a switch."""
    return "" if fact.reading is None else f"; as a variable {fact.reading.valid}"


def _plain(fact: Fact) -> dict[str, Any]:
    return {
        "name": fact.name,
        "group": fact.group,
        "type": fact.type,
        "domain": fact.domain,
        "values": list(fact.values),
        "nullable": fact.nullable,
        "default": fact.default,
        "least": fact.least,
        "meaning": fact.meaning,
        "reading": None if fact.reading is None else dict(vars(fact.reading)),
    }
