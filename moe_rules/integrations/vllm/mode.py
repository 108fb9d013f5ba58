"""What the plugin does, by the word in ``MOE_RULES_VLLM``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum

MODE_VARIABLE = "MOE_RULES_VLLM"


class Mode(Enum):
    """The words of ``MOE_RULES_VLLM``."""

    OFF = "off"
    """Nothing: vLLM selects by its own code."""
    ON = "on"
    """The tables select."""
    SHADOW = "shadow"
    """vLLM selects; the tables are asked too, and what differs is logged."""


def mode_from_environ(environ: Mapping[str, str] | None = None) -> Mode:
    """The mode that ``environ`` asks for (``os.environ`` if absent); off where it is silent.

    Raises ValueError for another word: an engine that runs without the rules its user asked for
    would be worse than one that does not start.
    """
    word = (os.environ if environ is None else environ).get(MODE_VARIABLE, "")
    try:
        return Mode(word.strip().lower() or "off")
    except ValueError:
        words = ", ".join(mode.value for mode in Mode)
        raise ValueError(f"{MODE_VARIABLE}={word!r} is none of {words}") from None
