"""``moe-rules list``: the backends, kernels, oracles, machines, requests and releases there are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from moe_rules.cli.options import Subparsers, add_format, add_narrowing, add_rules, command

if TYPE_CHECKING:
    from moe_rules.language.rules import Oracle, PlatformRules

Row = dict[str, Any]


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "list",
        "list backends, kernels, oracles, machines, requests or releases",
        "backends: the kernels of each; kernels: where each is declared and who has its class;\n"
        "oracles: the priority of each; machines: what --machine may name; requests: what\n"
        "--moe-backend may name; releases: what --release may name.",
        "moe-rules list backends --machine h100 --oracle fp8",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=tuple(_LISTS),
        default="oracles",
        help="default: oracles",
    )
    add_narrowing(parser)
    add_rules(parser)
    add_format(parser, "text", "json")
    parser.set_defaults(run=run, model=None, software=None)


def run(args: argparse.Namespace) -> int:
    """List."""
    from moe_rules.cli.narrowing import check_narrowing
    from moe_rules.language.ruleset import overlay_paths

    check_narrowing(args)
    overlay_paths(args.rules, args.release)  # refuses those that there are not, whatever is listed
    rows = list(_LISTS[args.what](args))
    if args.format == "json":
        print(json.dumps(rows, indent=2))
        return 0
    from moe_rules.cli.render import columns

    if not rows:
        print("none")
        return 0
    print(columns([list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]))
    return 0


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _oracles_of(args: argparse.Namespace) -> Iterator[tuple[PlatformRules, Oracle]]:
    """The oracles asked about, with the rules of their platforms."""
    from moe_rules.cli.narrowing import machines_of, platforms_of
    from moe_rules.language.ruleset import load_platform, overlay_paths

    overlays = overlay_paths(args.rules, args.release)
    for platform in platforms_of(args, machines_of(args)):
        rules = load_platform(platform, overlays)
        for oracle in rules.oracles.values():
            if not args.oracle or oracle.name in args.oracle:
                yield rules, oracle


def _oracles(args: argparse.Namespace) -> Iterator[Row]:
    for rules, oracle in _oracles_of(args):
        yield {
            "platform": rules.platform,
            "oracle": oracle.name,
            "priority": list(oracle.priority),
        }


def _backends(args: argparse.Namespace) -> Iterator[Row]:
    for rules, oracle in _oracles_of(args):
        for backend in oracle.backends.values():
            kernels = [choice.kernel.class_name for choice in backend.choices]
            yield {
                "platform": rules.platform,
                "oracle": oracle.name,
                "backend": backend.name,
                "kernels": list(dict.fromkeys(kernels)),
                "at": backend.location.short,
            }


def _requests(args: argparse.Namespace) -> Iterator[Row]:
    for rules, oracle in _oracles_of(args):
        for name, cases in oracle.requests.items():
            for case in cases:
                backends = ["auto"] if case.auto else [backend.name for backend in case.backends]
                yield {
                    "platform": rules.platform,
                    "oracle": oracle.name,
                    "moe_backend": name,
                    "backends": backends,
                    "when": case.when.words(),
                }


def _kernels(args: argparse.Namespace) -> Iterator[Row]:
    from moe_kernels.registry import Available, available

    users: dict[tuple[str, str], list[str]] = {}
    rows: dict[tuple[str, str], Row] = {}
    for rules, oracle in _oracles_of(args):
        for backend in oracle.backends.values():
            for choice in backend.choices:
                key = (rules.platform, choice.kernel.class_name)
                users.setdefault(key, []).append(oracle.name)
                place = choice.kernel.location.short
                rows.setdefault(key, {"platform": key[0], "kernel": key[1], "at": place})
    for key, row in rows.items():
        found = available(key[1])
        yield {
            "platform": row["platform"],
            "kernel": row["kernel"],
            "oracles": list(dict.fromkeys(users[key])),
            "class": found.provider
            if isinstance(found, Available)
            else f"not here: {found.remedy}",
            "at": row["at"],
        }


def _machines(args: argparse.Namespace) -> Iterator[Row]:
    from moe_rules.cli.narrowing import machines_of, platforms_of
    from moe_rules.machines.machine import named_machines
    from moe_rules.vocabulary.fact_values import plain

    asked = machines_of(args)
    names = {one.name for one in asked} or named_machines()
    devices = platforms_of(args, asked)
    for machine in named_machines().values():
        facts = machine.platform
        if machine.name not in names or facts["device"] not in devices:
            continue
        kind = facts.get("compute_capability") or facts.get("gfx") or facts.get("cpu_arch")
        yield {
            "machine": machine.name,
            "platform": plain(facts["device"]),
            "kind": None if kind is None else plain(kind),
            "product": machine.product,
            "aliases": list(machine.aliases),
        }


def _releases(args: argparse.Namespace) -> Iterator[Row]:
    from moe_rules.files.releases import releases

    for number, release in enumerate(releases()):
        at = str(release.folders[-1]) if release.folders else "the packaged rules"
        yield {"release": release.name, "vllm": release.version, "latest": number == 0, "at": at}


_LISTS = {
    "backends": _backends,
    "kernels": _kernels,
    "oracles": _oracles,
    "machines": _machines,
    "requests": _requests,
    "releases": _releases,
}
