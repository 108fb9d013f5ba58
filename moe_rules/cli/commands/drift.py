"""``moe-rules drift``: what of an engine's source the tables say again, and a release changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moe_rules.cli.options import Subparsers, add_format, command

if TYPE_CHECKING:
    from moe_rules.drift.release import Release


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "drift",
        "show what a release changed of the source that the tables say again",
        "Every function, method, class and value that decides something in vLLM and is said again\n"
        "in the tables (rules/sources.yaml names them; what they use counts as well) has a\n"
        "fingerprint, in which comments, docstrings and formatting do not count. Those of the\n"
        "release in SOURCE are compared with those of another one: what changed, appeared,\n"
        "vanished or moved, and the lines of rules that depend on it. Nothing of SOURCE is\n"
        "imported. Exit code 0: nothing differs; 1: something does; 2: cannot compare.",
        "moe-rules drift vllm-0.34.0-cp38-abi3-manylinux_2_28_x86_64.whl",
    )
    parser.add_argument(
        "source", metavar="SOURCE", type=Path, help="a wheel, or a folder that holds the package"
    )
    parser.add_argument(
        "--from",
        dest="before",
        metavar="RELEASE_OR_SOURCE",
        help="what it is compared with: a release whose fingerprints are stored (the latest one "
        "other than that of SOURCE if absent), or a wheel or folder as well",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="store the fingerprints of SOURCE in the packaged rules, and compare nothing",
    )
    add_format(parser, "text", "json", "github")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, compare and print."""
    from moe_rules.cli.drifting import FORMATS, Drift
    from moe_rules.cli.errors import UserError
    from moe_rules.drift import stored
    from moe_rules.drift.changes import changes
    from moe_rules.drift.places import Places
    from moe_rules.drift.source import SourceError
    from moe_rules.files.packaged import packaged_rules

    folder = stored.folder_of()
    try:
        after = _read(args.source)
        if args.write:
            print(stored.write(folder, after))
            return 0
        if args.before is None:
            others = [name for name in stored.releases(folder) if name != after.name]
            before = stored.read(folder, others[-1])
        elif Path(args.before).exists():
            before = _read(Path(args.before))
        else:
            before = stored.read(folder, args.before)
    except SourceError as error:
        raise UserError(str(error)) from None
    found = Drift(before, after, tuple(changes(before, after)), Places(packaged_rules()))
    print(FORMATS[args.format](found))
    return int(bool(found.changes))


def _read(path: Path) -> Release:
    from moe_rules.drift.citations import read_sources
    from moe_rules.drift.reading import read_release
    from moe_rules.drift.source import Source

    cited, _ = read_sources()
    return read_release(Source(path, cited.package), cited)
