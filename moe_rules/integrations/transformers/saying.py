"""What is said in transformers' log, and once each."""

from __future__ import annotations

import logging
from typing import Any

from moe_rules.integrations.saying import engine_logger

NAME = "moe_rules"
"""The experts implementation that this package is."""

logger = engine_logger("transformers")
_said: set[str] = set()


def say(level: int, line: str) -> None:
    """Log ``line``, unless it was logged before."""
    if line not in _said:
        _said.add(line)
        logger.log(level, "%s", line)


def say_fallback(module: Any, implementation: str, reason: str) -> None:
    """Say that transformers computes ``module`` itself, and why."""
    name = type(module).__name__
    say(
        logging.WARNING,
        f"{NAME}: {name}: transformers' {implementation} computes it, because {reason}",
    )
