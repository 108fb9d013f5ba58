"""The machines that are simulated and recorded: every one that the tables can tell apart.

They are the named machines of ``rules/machines.yaml``, one of those that have the same facts, and
the values of the vocabulary that no named machine has.
"""

from __future__ import annotations

from collections.abc import Iterator

from moe_rules.conformance.writing import platform_name
from moe_rules.machines.machine import Machine, named_machines, software_preset
from moe_rules.vocabulary.facts import FACTS

_TELLS_NOTHING = "device_name"
"""A fact that no oracle asks for."""


def machines() -> dict[str, Machine]:
    """Each with all the software it may have, by the name that cases give it (cuda-sm90)."""
    found: dict[str, Machine] = {}
    for machine in (*_named(), *_unnamed()):
        found.setdefault(platform_name(machine), machine)
    return dict(sorted(found.items()))


def _named() -> Iterator[Machine]:
    for one in named_machines().values():
        known = {n: v for n, v in one.platform.items() if n != _TELLS_NOTHING}
        device = str(known["device"])
        yield Machine(one.name, known, software_preset("full", device), "simulated")


def _unnamed() -> Iterator[Machine]:
    for gfx in FACTS["gfx"].values:
        platform = {"device": "rocm", "gfx": gfx}
        yield Machine(gfx, platform, software_preset("full", "rocm"), "simulated")
