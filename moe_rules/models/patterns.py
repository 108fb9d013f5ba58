"""Regular expressions of a checkpoint, with the package ``regex``, as vLLM matches them.

It answers some at once over which Python's own goes on for ever. What takes it long, too, is given
up. It is imported for the first pattern, which most checkpoints do not have.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from moe_rules.models.errors import ConfigValueError, PatternError

SECONDS = 2.0
"""How long one pattern may take over one name of a module."""


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> Any:
    """The expression. Raises PatternError."""
    import regex

    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise PatternError(str(error)) from None


def begins(pattern: str, name: str) -> bool:
    """Whether the beginning of ``name`` matches. Raises PatternError, ConfigValueError."""
    return _found(pattern, compiled(pattern).match, name)


def occurs(pattern: str, name: str) -> bool:
    """Whether some part of ``name`` matches. Raises PatternError, ConfigValueError."""
    return _found(pattern, compiled(pattern).search, name)


def _found(pattern: str, look: Any, name: str) -> bool:
    try:
        return look(name, timeout=SECONDS) is not None
    except TimeoutError:
        raise ConfigValueError(
            f"a pattern that is held against {name}",
            f"a regular expression that answers within {SECONDS:.0f} s",
            repr(pattern),
        ) from None
