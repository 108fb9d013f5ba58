"""How many comparisons agree."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Count:
    """Agreeing cases of those that were compared."""

    agree: int = 0
    total: int = 0

    def add(self, agrees: bool | None) -> None:
        """Count one case, unless it is not compared."""
        if agrees is not None:
            self.total += 1
            self.agree += agrees

    def merge(self, other: Count) -> None:
        """Add another count."""
        self.agree += other.agree
        self.total += other.total

    @property
    def complete(self) -> bool:
        """Every compared case agrees."""
        return self.agree == self.total

    def to_dict(self) -> dict[str, int]:
        """Plain form."""
        return {"agree": self.agree, "total": self.total}
