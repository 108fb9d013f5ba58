"""``moe-rules report``: one HTML file that shows what runs where, and why."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from moe_rules.cli import deployment
from moe_rules.cli.errors import UserError
from moe_rules.cli.options import (
    Subparsers,
    add_machine,
    add_rules,
    add_set,
    add_software,
    command,
    positive,
)

TP = (1, 2, 4, 8)
DP = (1, 8)
ALL2ALL = ("allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency")
"""The sizes and exchanges that are computed if none is named."""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "report",
        "write a page that shows decisions and their reasons",
        "One HTML file that works offline: what each machine takes for each model in each\n"
        "checkpoint format, under every combination of --tp, --dp, expert parallelism, --all2all\n"
        "and backend asked for by name; a cell opens the whole explanation. With --against, what\n"
        "the rules decide otherwise than those named (a folder, an overlay, a git revision, as\n"
        "diff reads them).",
        "moe-rules report --model config.json --machine h100 --machine b200 --out report.html",
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="MODEL",
        help="config.json, the folder it is in, or ORG/NAME in the Hugging Face cache; repeatable",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page")
    add_machine(parser, "those of matrix", several=True)
    parser.add_argument(
        "--scheme",
        action="append",
        metavar="NAME",
        help="a checkpoint format; repeatable; default: the model's own and those of matrix",
    )
    add_software(parser)
    add_rules(parser)
    parser.add_argument(
        "--against", metavar="RULES", help="show what these decide otherwise: before and after"
    )
    switches = parser.add_argument_group("switches of the page")
    for name, known in (("tp", TP), ("dp", DP)):
        switches.add_argument(
            f"--{name}",
            action="append",
            type=positive,
            metavar="N",
            help=f"repeatable; default: {', '.join(map(str, known))}",
        )
    switches.add_argument(
        "--all2all",
        action="append",
        metavar="BACKEND",
        help=f"exchange of tokens between ranks; repeatable; default: {', '.join(ALL2ALL)}",
    )
    add_set(parser)
    shown = parser.add_argument_group("what is shown besides")
    shown.add_argument(
        "--repository",
        metavar="URL",
        help="where the rules are read on the web, to which places link: "
        "https://example.org/moe_rules/blob/main",
    )
    shown.add_argument(
        "--bench", type=Path, metavar="DIR", help="times that moe-rules bench wrote into DIR"
    )
    parser.set_defaults(
        run=run,
        moe_backend=None,
        oracle=None,
        weight=None,
        activation_key=None,
        quantization=None,
        layer=None,
        pcp=1,
        sp=None,
        eplb=False,
    )


def run(args: argparse.Namespace) -> int:
    """Decide everything, and write the page."""
    from moe_rules.cli.reported import report_data
    from moe_rules.reporting.report.page import page

    if args.repository and not _is_address(args.repository):
        raise UserError(f"--repository {args.repository}: an address begins with https:// here")
    # Before anything is decided, which may take a minute.
    if not args.out.parent.is_dir():
        raise UserError(f"--out {args.out}: there is no folder {args.out.parent}")
    if args.out.is_dir():
        raise UserError(f"--out {args.out}: that is a folder; a file is written")
    exchanges = [deployment.all2all_called(name) for name in dict.fromkeys(args.all2all or ALL2ALL)]
    deployments = [
        {"tp": tp, "dp": dp, "ep": ep, "all2all": all2all}
        for tp in dict.fromkeys(args.tp or TP)
        for dp in dict.fromkeys(args.dp or DP)
        for ep in (False, True)
        if not (ep and tp * dp == 1)
        # Tokens are exchanged between the ranks of data parallelism alone.
        for all2all in (exchanges if ep and dp > 1 else (None,))
    ]
    with ExitStack() as stack:
        data = report_data(args, deployments, stack)
    names = ", ".join(model["name"] for model in data["models"])
    text = page(data, f"{names}: which kernels run where")
    try:
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {args.out}: {error.strerror}") from None
    print(f"wrote {args.out}")
    return 0


def _is_address(text: str) -> bool:
    """Whether it is an address on the web, with a host."""
    try:
        address = urlsplit(text)
    except ValueError:
        return False
    return address.scheme in ("http", "https") and bool(address.netloc)
