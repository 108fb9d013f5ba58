"""What the tables say again of one release: fingerprints, and which use which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from moe_rules.files.problems import Location

Part = tuple[str, ...]
"""A part of the tables: ("oracles", "fp8", "priority"), ("kernels", "TritonExperts"), (file,), or a
row of a file: ("models/architectures.yaml", "architectures", "MixtralForCausalLM")."""


class Print(NamedTuple):
    """A definition: its fingerprint, what it uses itself, and where it is, if that is known."""

    fingerprint: str
    uses: tuple[str, ...] = ()
    place: Location | None = None


@dataclass(frozen=True)
class Release:
    """The definitions that count, by name, and those that each part of the tables cites."""

    package: str
    name: str
    definitions: Mapping[str, Print]
    cited: Mapping[Part, tuple[str, ...]]

    def parts(self) -> dict[str, frozenset[Part]]:
        """The parts of the tables that say each definition again.

        That is what they cite, and what this uses, but for what another part of the same oracle
        cites.
        """
        found: dict[str, set[Part]] = {name: set() for name in self.definitions}
        for part, cited in self.cited.items():
            seen = set(cited) | self._said_elsewhere(part)
            waiting = list(cited)
            while waiting:
                name = waiting.pop()
                found[name].add(part)
                fresh = [used for used in self.definitions[name].uses if used not in seen]
                seen.update(fresh)
                waiting += fresh
        return {name: frozenset(parts) for name, parts in found.items()}

    def _said_elsewhere(self, part: Part) -> set[str]:
        """What the other parts of an oracle cite."""
        if part[0] != "oracles":
            return set()
        others = (p for p in self.cited if p != part and p[:2] == part[:2])
        return {name for other in others for name in self.cited[other]}
