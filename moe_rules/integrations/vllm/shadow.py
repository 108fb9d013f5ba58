"""Compares what vLLM selects with what the tables would have selected."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_rules.engine.decision import Decision
from moe_rules.integrations.saying import (
    engine_logger,
    layer_words,
    reason_words,
    selection_line,
)
from moe_rules.integrations.vllm.outcomes import (
    Outcome,
    Select,
    Selected,
    agree,
    crashed,
    decision_names,
    outcome_names,
)
from moe_rules.integrations.vllm.recording import RECORD_VARIABLE, record
from moe_rules.integrations.vllm.selectors import Question, Tables
from moe_rules.oracles.vllm_objects import vllm_kernel

logger = engine_logger("vllm")


class Shadow:
    """Asks the tables after vLLM has selected. Never changes what vLLM returns or raises.

    Says once for each kind of layer what both select, or how they differ and why. Where
    ``environ`` names a file in ``MOE_RULES_VLLM_RECORD``, every call is added to it as a case
    that ``moe-rules conformance`` reads.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        path = (os.environ if environ is None else environ).get(RECORD_VARIABLE)
        self._record = Path(path) if path else None
        self._said: set[tuple[Any, ...]] = set()

    def beside(self, tables: Tables, original: Select) -> Select:
        """``original``, with what it comes to compared."""

        def select(*args: Any, **kwargs: Any) -> Selected:
            try:
                outcome = original(*args, **kwargs)
            except Exception as error:
                self._look_on(tables, args, kwargs, error)
                raise
            self._look_on(tables, args, kwargs, outcome)
            return outcome

        return select

    def _look_on(
        self, tables: Tables, args: tuple[Any, ...], kwargs: dict[str, Any], outcome: Outcome
    ) -> None:
        try:
            question = tables.question(args, kwargs)
            self._add_case(tables, question, outcome)
            answer = tables.answer(question)
            if self._is_new(answer, outcome_names(outcome)) and not crashed(outcome):
                self._compare(tables.oracle, question, answer.decision, outcome)
        except Exception as error:  # whatever it is, vLLM's own selection stands
            if self._is_new(tables.oracle, str(error)):
                logger.warning("moe_rules: cannot look on at %s: %s", tables.oracle, error)

    def _add_case(self, tables: Tables, question: Question, outcome: Outcome) -> None:
        if self._record is None:
            return
        try:
            record(self._record, tables, question, outcome)
        except OSError as error:  # of the file; what can be compared is compared
            if self._is_new(str(error)):
                logger.warning("moe_rules: cannot record: %s", error)

    def _is_new(self, *kind: Any) -> bool:
        new = kind not in self._said
        self._said.add(kind)
        return new

    def _compare(
        self, oracle: str, question: Question, decision: Decision, outcome: Outcome
    ) -> None:
        theirs, ours = outcome_names(outcome), decision_names(decision)
        if agree(decision, outcome):
            if not decision.failed:
                logger.info("%s, and vLLM selects the same", selection_line(decision))
        elif self._is_new(oracle, theirs, ours):
            logger.warning(
                "moe_rules: %s: vLLM comes to %s, because %s; the tables to %s, because %s",
                layer_words(decision),
                " / ".join(theirs),
                _their_reason(oracle, question, decision, outcome),
                " / ".join(ours),
                "; ".join([reason_words(decision), *_against(decision, outcome)]),
            )


def _their_reason(oracle: str, question: Question, decision: Decision, outcome: Outcome) -> str:
    """What vLLM says: its error, or what the class that the tables select says of the layer."""
    if isinstance(outcome, Exception):
        return str(outcome)
    if decision.failed or decision.kernel is None:
        return "it serves the layer"
    cls: Any = vllm_kernel(decision.kernel, oracle)
    layer, weight_key, activation_key, *_ = question
    formats = type(cls.activation_format())
    batched = layer.moe_parallel_config.use_batched_activation_format
    form = formats.BatchedExperts if batched else formats.Standard
    serves, reason = cls.is_supported_config(cls, layer, weight_key, activation_key, form)
    if serves:
        return f"it comes before {decision.backend}, which would serve too"
    return f"{cls.__name__}: {reason or 'does not serve the layer'}"


def _against(decision: Decision, outcome: Outcome) -> list[str]:
    """What the tables have against the kernel that vLLM selected."""
    if isinstance(outcome, Exception) or outcome[0].name not in decision.declared_backends:
        return []
    backend, kernel = outcome_names(outcome)[0], outcome_names(outcome)[-1]
    return [
        f"{backend} / {kernel}: {failure} ({failure.location.short})"
        for candidate in decision.explain_backend(backend)
        if candidate.kernel == kernel
        for failure in candidate.failures
    ]
