"""``moe-rules conformance``: do our decisions agree with recorded ones of the reference."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_rules.cli.errors import UserError
from moe_rules.cli.options import Subparsers, add_format, add_rules, command, count

if TYPE_CHECKING:
    from moe_rules.conformance.models import ModelsResult
    from moe_rules.conformance.run import Disagreement, Result


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "conformance",
        "compare decisions with recorded ones of the reference",
        "For each oracle the share of cases in which the decision, every kernel's answer and the\n"
        "order agree; with --models, what is derived from configurations as well.\n"
        "Exit code 1: something disagrees.",
        "moe-rules conformance cases/ --oracle fp8 --show 3",
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        type=Path,
        help="*.jsonl.gz or *.jsonl.xz files, or their folders",
    )
    parser.add_argument(
        "--oracle", action="append", default=[], help="only cases of this oracle; repeatable"
    )
    parser.add_argument(
        "--models",
        metavar="DIR",
        type=Path,
        help="folder of <model>.json with decisions/**/*.jsonl.gz (or .xz) below it",
    )
    parser.add_argument(
        "--show", metavar="N", type=count, default=3, help="disagreements to print; default: 3"
    )
    add_rules(parser)
    add_format(parser, "text", "json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from moe_rules.cli.narrowing import oracle_called
    from moe_rules.cli.render import progress
    from moe_rules.conformance.cases import case_files
    from moe_rules.conformance.models import run_models
    from moe_rules.conformance.run import run_files
    from moe_rules.language.ruleset import overlay_paths

    if not args.paths and args.models is None:
        raise UserError("nothing to compare: give case files, or --models DIR")
    for name in args.oracle:
        oracle_called(name)
    overlays = overlay_paths(args.rules, args.release)
    cases: Result | None = None
    if args.paths:
        files = case_files(args.paths)
        with progress("comparing", len(files)) as advance:
            cases = run_files(files, args.oracle, overlays, lambda _: advance())
    models = None if args.models is None else run_models(args.models, args.oracle, overlays)
    if args.format == "json":
        print(json.dumps(_plain(cases, models, args.show), indent=2))
    else:
        print(_text(cases, models, args.show))
    return int(not all(result.complete for result in (cases, models) if result is not None))


def _plain(cases: Result | None, models: ModelsResult | None, show: int) -> dict[str, Any]:
    oracles = {} if cases is None else {n: r.to_dict() for n, r in cases.oracles.items()}
    plain: dict[str, Any] = {"oracles": oracles}
    if models is not None:
        plain["models"] = models.to_dict()
    shown = _disagreements(cases, models)[:show]
    plain["disagreements"] = [disagreement.to_dict() for disagreement in shown]
    if models is not None:
        plain["derivation_disagreements"] = models.derived.disagreements[:show]
    return plain


def _disagreements(cases: Result | None, models: ModelsResult | None) -> list[Disagreement]:
    return [*(cases.disagreements if cases else ()), *(models.disagreements if models else ())]


def _text(cases: Result | None, models: ModelsResult | None, show: int) -> str:
    from moe_rules.cli.render import columns

    rows: list[list[str]] = []
    if cases is not None:
        rows.append(["oracle", "decision", "candidates", "order", "reference crashed"])
        for name, result in cases.oracles.items():
            counts = [result.decision, result.candidates, result.order]
            shares = [_share(count.agree, count.total) for count in counts]
            rows.append([name, *shares, str(result.reference_crashed)])
    sections = [columns(rows)] if rows else []
    if cases is not None and not cases.oracles:
        sections = ["no case was compared"]
    if models is not None:
        table = [[n, _share(c["agree"], c["total"])] for n, c in models.to_dict().items()]
        sections.append(columns([["models", "agreement"], *table]))
        sections += models.derived.disagreements[:show]
    sections += [_explained(d) for d in _disagreements(cases, models)[:show]]
    return "\n\n".join(sections)


def _share(agree: int, total: int) -> str:
    """Agreement in percent; 100.00 is said only of complete agreement."""
    if not total:
        return "-"
    percent = 100.0 if agree == total else min(99.99, 100 * agree / total)
    return f"{percent:.2f} % ({agree}/{total})"


def _explained(disagreement: Disagreement) -> str:
    lines = [f"{disagreement.id}: {disagreement.oracle} on {disagreement.platform}"]
    lines += [f"  {note}" for note in disagreement.notes]
    lines += ["  reference:", *(f"    {line}" for line in disagreement.reference)]
    lines += ["  ours:", *(f"    {line}" for line in disagreement.ours)]
    return "\n".join(lines)
