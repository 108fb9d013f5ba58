"""What integrations say in an engine's log: a decision in one line."""

from __future__ import annotations

import logging

from moe_rules.engine.because import because
from moe_rules.engine.decision import Decision
from moe_rules.vocabulary.fact_values import in_words


def engine_logger(package: str) -> logging.Logger:
    """The log of an integration: below the engine's own, so that its format and level hold."""
    return logging.getLogger(f"{package}.moe_rules")


def layer_words(decision: Decision) -> str:
    """The kind of layer that a decision is for, in short."""
    facts = decision.facts
    keys = [in_words(facts[name]) for name in ("weight_key", "activation_key") if facts.get(name)]
    shape = "{num_experts} experts of {hidden_dim}x{intermediate_size_per_partition}".format(
        **facts
    )
    return " ".join([f"{decision.oracle} layer ({shape}", *keys, f"{facts['activation']})"])


def reason_words(decision: Decision) -> str:
    """Why the tables came to a decision, and the line that says so."""
    if decision.failed:
        return str(decision.error)
    text, place = because(decision)
    words = f"{text} ({place.short})"
    return words if decision.requested is None else f"{words}, requested by {decision.requested}"


def selection_line(decision: Decision) -> str:
    """One line: the layer, what serves it, and why."""
    kernel = decision.kernel or "the platform's own code"
    return (
        f"moe_rules: {layer_words(decision)}: {decision.backend} / {kernel}, "
        f"because {reason_words(decision)}"
    )
