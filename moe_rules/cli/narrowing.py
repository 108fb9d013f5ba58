"""What ``--platform``, ``--machine`` and ``--oracle`` leave of all that there is."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from moe_rules.cli.errors import UserError
from moe_rules.machines.machine import Machine, MachineError, load_machine, named_machines
from moe_rules.vocabulary.fact_values import did_you_mean
from moe_rules.vocabulary.table_names import ORACLES, PLATFORMS


def check_narrowing(args: argparse.Namespace) -> None:
    """Raise UserError for a kind of device, or an oracle, that there is not."""
    for name in args.platform or ():
        platform_called(name)
    for name in args.oracle or ():
        oracle_called(name)


def platform_called(name: str) -> str:
    """A kind of device by its name. Raises UserError for one that there is not."""
    if name not in PLATFORMS and is_machine(name):
        raise UserError(
            f"--platform {name}: that is a machine; --machine {name} asks for it, "
            f"--platform for a kind of device ({', '.join(PLATFORMS)})"
        )
    return _known("--platform", name, PLATFORMS)


def oracle_called(name: str) -> str:
    """An oracle by its name. Raises UserError for one that there is not."""
    return _known("--oracle", name, ORACLES)


def is_machine(name: str) -> bool:
    """Whether it is a named machine, or a file that has recorded one."""
    try:
        load_machine(name)
    except (MachineError, OSError):
        return False
    return True


def _known(option: str, name: str, known: Collection[str]) -> str:
    if name not in known:
        raise UserError(
            f"{option} {name}: there is none of that name{did_you_mean(name, known)} "
            f"(one of {', '.join(known)})"
        )
    return name


def machines_of(args: argparse.Namespace) -> list[Machine]:
    """The machines that the options name; for a model all named ones if they name none."""
    if args.machine or args.model is None:
        return [load_machine(name, args.software) for name in args.machine or ()]
    every = [one.machine(args.software or "full") for one in named_machines().values()]
    return [one for one in every if not args.platform or one.device in args.platform]


def platforms_of(args: argparse.Namespace, machines: Collection[Machine]) -> list[str]:
    """The kinds of device that the options name, all if none; of machines, theirs alone."""
    devices = {one.device for one in machines} or PLATFORMS
    return [name for name in args.platform or PLATFORMS if name in devices]
