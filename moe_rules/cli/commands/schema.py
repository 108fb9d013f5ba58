"""``moe-rules schema``: the JSON Schemas of the files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from moe_rules.cli.errors import UserError
from moe_rules.cli.options import Subparsers, command


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "schema",
        "print or write the JSON Schemas of the files",
        "Draft-07, generated from the models, as editors read it through the modeline of a file.\n"
        "Without NAME: all of them, by the name of the file.",
        "moe-rules schema --write schemas",
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="platform, vocabulary, machines, ..."
    )
    parser.add_argument("--write", metavar="DIR", type=Path, help="write files instead of printing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print or write."""
    from moe_rules.json_schemas import schema_for, schemas

    chosen = schemas()
    if args.name is not None:
        try:
            wanted = schema_for(args.name)
        except ValueError as error:
            raise UserError(str(error)) from None
        chosen = {file: schema for file, schema in chosen.items() if schema == wanted}
    if args.write is None:
        print(schema_text(wanted if args.name is not None else chosen), end="")
        return 0
    args.write.mkdir(parents=True, exist_ok=True)
    for file, schema in chosen.items():
        (args.write / file).write_text(schema_text(schema), encoding="utf-8")
        print(f"wrote {args.write / file}", file=sys.stderr)
    return 0


def schema_text(schema: object) -> str:
    """A schema as its file holds it."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
