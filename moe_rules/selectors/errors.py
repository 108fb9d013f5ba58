"""The errors of a selection without a result, which say what would have one."""

from __future__ import annotations

import functools

from moe_rules.engine.decision import Decision


class SelectionError(Exception):
    """No backend was selected. ``decision`` holds the whole explanation.

    Its text is made when it is read: what failed, the least changes after which a backend would be
    selected, and what is to be said ``besides``.
    """

    def __init__(self, decision: Decision, besides: str = "") -> None:
        super().__init__(decision, besides)
        self.decision = decision
        self.besides = besides

    @functools.cached_property
    def _text(self) -> str:
        from moe_rules.analysis.nearest import in_words, least_changes

        lines = [str(self.decision.error)]
        if ways := in_words(least_changes(self.decision)):
            lines += ["  nearest:", *(f"    {way}" for way in ways)]
        return "\n".join([*lines, self.besides]).rstrip()

    def __str__(self) -> str:
        return self._text


class InvalidRequestError(SelectionError, ValueError):
    """A request that cannot be served, or that the oracle does not take."""


class NotSupportedError(SelectionError, NotImplementedError):
    """No backend of the oracle supports the deployment."""


ERRORS: dict[str, type[SelectionError]] = {
    "invalid_request": InvalidRequestError,
    "not_supported": NotSupportedError,
}


def refusal(decision: Decision, besides: str = "") -> SelectionError:
    """The error of a decision that failed, and what is to be said besides."""
    kind = decision.result.error
    assert kind is not None
    return ERRORS[kind](decision, besides)
