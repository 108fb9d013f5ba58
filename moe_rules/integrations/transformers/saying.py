"""What is said in transformers' log, and once each."""

from __future__ import annotations

import logging

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


def say_fallback(name: str, implementation: str, reason: str) -> None:
    """Say that transformers computes modules of the class ``name`` itself, and why."""
    say(
        logging.WARNING,
        f"{NAME}: {name}: transformers' {implementation} computes it, because {reason}",
    )
