"""Lets the tables select in vLLM, or look on while it does."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NoReturn

from moe_rules.engine.decision import Decision
from moe_rules.integrations.saying import engine_logger, selection_line
from moe_rules.integrations.vllm.mode import Mode
from moe_rules.integrations.vllm.outcomes import Select, outcome_names
from moe_rules.integrations.vllm.recording import RECORD_VARIABLE
from moe_rules.integrations.vllm.replacing import replace_functions
from moe_rules.integrations.vllm.selectors import PACKAGE, SELECTORS, Tables
from moe_rules.integrations.vllm.shadow import Shadow
from moe_rules.oracles.vllm_machine import vllm_release, vllm_version
from moe_rules.oracles.vllm_selection import Answer
from moe_rules.selectors.errors import refusal

logger = engine_logger("vllm")


def install(mode: Mode) -> None:
    """Put the tables in the place of vLLM's selectors, or a comparison with them."""
    if mode is Mode.ON and os.environ.get(RECORD_VARIABLE):
        say_unrecorded()
    oracles = {f"{PACKAGE}.{replaced.function}": name for name, replaced in SELECTORS.items()}
    wrap = selecting if mode is Mode.ON else Shadow().beside

    def replace(name: str, original: Select) -> Select:
        say_version()
        return functools.wraps(original)(wrap(Tables(oracles[name], original), original))

    replace_functions(tuple(oracles), replace)


def selecting(tables: Tables, original: Select) -> Select:
    """A selector that the tables answer; ``original`` is asked only what it says to a refusal."""
    known: dict[Answer, tuple[Any, type | None]] = {}

    def select(*args: Any, **kwargs: Any) -> tuple[Any, type | None]:
        answer = tables.answer(tables.question(args, kwargs))
        selected = known.get(answer)
        if selected is None:
            if answer.decision.failed:
                refuse(answer.decision, original, args, kwargs)
            backend, kernel = answer.selected()
            selected = known[answer] = backend, bound(kernel, answer)
            logger.info("%s", selection_line(answer.decision))
        return selected

    return select


def refuse(
    decision: Decision, original: Select, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> NoReturn:
    """Raise the error of vLLM's type, with the reasons of the tables and what vLLM would do."""
    try:
        theirs = "would select " + " / ".join(outcome_names(original(*args, **kwargs)))
    except Exception as error:
        theirs = f"says: {error}"
    raise refusal(decision, f"  vLLM's own selection {theirs}")


def bound(kernel: type | None, answer: Answer) -> type | None:
    """The class for the layer that was asked about, where one class has others by their keys."""
    for_keys: Callable[..., type] | None = getattr(kernel, "for_keys", None)
    if for_keys is None:
        return kernel
    facts = answer.decision.kernel_facts
    return for_keys(facts["weight_key"], facts["activation_key"])


@functools.cache
def say_unrecorded() -> None:
    """Say once that a recording was asked for, and none is made."""
    logger.warning(
        "moe_rules: %s is for shadow, which asks vLLM; nothing is recorded", RECORD_VARIABLE
    )


@functools.cache
def say_version() -> None:
    """Say once where there are no tables of the vLLM that runs here, and which are taken."""
    version, release = vllm_version(), vllm_release()
    if version != release.version:
        logger.warning(
            "moe_rules: there are no tables of vLLM %s; those of %s come nearest and decide. Where "
            "the two differ, so may what they select",
            version or "of unknown version",
            release.version,
        )
