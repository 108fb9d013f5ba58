"""A decision: an explanation that can also say what went wrong, and its plain form."""

from __future__ import annotations

import functools
from typing import Any

from moe_rules.engine.explanation import Explanation
from moe_rules.engine.report import error_text
from moe_rules.vocabulary.fact_values import plain

FORMAT_VERSION = 1
"""Version of :meth:`Decision.to_dict`; it grows when a key changes its meaning or goes."""


class Decision(Explanation):
    """What serves one layer, and why. A decision without a backend has an ``error``."""

    __slots__ = ()

    @functools.cached_property
    def error(self) -> str | None:
        """What went wrong, in full, or None."""
        return error_text(self) if self.failed else None

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-serialisable form; see :data:`FORMAT_VERSION`."""
        reason = self.reason
        return {
            "version": FORMAT_VERSION,
            "oracle": self.oracle,
            "platform": self.platform,
            "backend": self.backend,
            "kernel": self.kernel,
            "how": self.how,
            "because": None
            if reason is None
            else {"text": reason.text, "at": str(reason.location), "quirk": reason.quirk},
            "requested": None if self.requested is None else self.requested.to_dict(),
            "error": self.error,
            "priority": list(self.priority),
            "order": list(self.order),
            "adjusted": [
                {
                    "action": change.action,
                    "backends": list(change.names),
                    "anchor": change.anchor,
                    "because": change.reason.text,
                    "quirk": change.reason.quirk,
                    "at": str(change.reason.location),
                }
                for change in self.adjustments
            ],
            "removed": [
                {"backend": r.backend, "because": r.because, "at": str(r.location)}
                for r in self.removed
            ],
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "warnings": list(self.warnings),
            "unknown_facts": list(self.unknown_facts),
            "facts": {name: plain(value) for name, value in sorted(self.facts.items())},
            "rules": self.fingerprint,
        }

    def __repr__(self) -> str:
        answer = "failed" if self.failed else f"{self.backend}/{self.kernel}"
        return f"<Decision {self.oracle} on {self.platform}: {answer} ({self.how})>"
