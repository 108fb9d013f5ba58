"""``moe-rules detect``: the facts of this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_rules.cli.options import Subparsers, add_format, command

if TYPE_CHECKING:
    from moe_rules.machines.detection import Detection


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "detect",
        "print the facts of this machine, and how each is known",
        "With --output the machine is recorded in a file that every --machine takes, here or\n"
        "on another machine. A fact that cannot be told is unknown, never false.",
        "moe-rules detect --output machine.yaml",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="record the machine")
    add_format(parser, "text", "json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, print, record."""
    from moe_rules.machines.detection import probe

    detection = probe()
    print(json.dumps(_plain(detection), indent=2) if args.format == "json" else _text(detection))
    if args.output is not None:
        args.output.write_text(detection.machine.to_yaml(), encoding="utf-8")
        print(f"recorded in {args.output}", file=sys.stderr)
    return 0


def _plain(detection: Detection) -> dict[str, Any]:
    from moe_rules.vocabulary.fact_values import plain

    findings = [
        {"fact": f.fact, "known": f.known, "value": plain(f.value), "how": f.how}
        for f in detection.findings
    ]
    notes = list(detection.notes)
    return {"machine": detection.machine.to_dict(), "findings": findings, "notes": notes}


def _text(detection: Detection) -> str:
    from moe_rules.cli.render import columns
    from moe_rules.vocabulary.fact_values import in_words

    rows = [["fact", "value", "how it is known"]]
    rows += [
        [f.fact, in_words(f.value) if f.known else "unknown", f.how] for f in detection.findings
    ]
    machine = detection.machine
    lines = [f"{machine.name} ({machine.source})", "", columns(rows)]
    lines += [f"note: {note}" for note in detection.notes]
    return "\n".join(lines)
