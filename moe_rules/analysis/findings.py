"""What is found in rules by asking all deployments."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from moe_rules.files.problems import Location
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.record import Record


class Finding(Record):
    """Something that holds of all deployments, at a place of the rules.

    ``code`` is one of :data:`moe_rules.language.finding_codes.CODES`.
    ``oracle`` is one for which it holds, ``holders`` are the places of the rules and kernels whose
    condition it is part of. ``witness`` are the facts of a deployment that shows it, empty where
    the finding is that there is none.
    """

    code: str
    message: str
    location: Location
    oracle: str
    witness: Mapping[str, FactValue] = MappingProxyType({})
    holders: tuple[Location, ...] = ()

    @property
    def is_unreachable(self) -> bool:
        """No deployment gets there."""
        return self.code.startswith("unreachable-")

    @property
    def is_idle(self) -> bool:
        """The rule or the kernel does nothing, and so do all parts of its condition."""
        return self.code.startswith(("unreachable-", "unsat")) or self.code.endswith("-effect")
