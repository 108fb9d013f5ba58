"""Decisions about vLLM's live objects, remembered by everything that they depend on.

vLLM asks once for every layer, and most layers of a model are alike. What a layer's objects say
is read in one pass, together with the environment and what the oracle's rules ask of the engine;
where that was asked before, the answer is there. Nothing is remembered by the identity of an
object that can change.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from typing import Any

from moe_rules.engine.asked import asked_facts
from moe_rules.engine.decision import Decision
from moe_rules.language.requested import VARIABLE
from moe_rules.language.ruleset import PATH_VARIABLE
from moe_rules.oracles import vllm_objects
from moe_rules.oracles.backends import member
from moe_rules.oracles.vllm_objects import CHECKPOINT_READERS, ENGINE_FACTS, LAYER_READERS
from moe_rules.selectors.errors import refusal
from moe_rules.selectors.selector import MAX_REMEMBERED, Selector
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.switches import SWITCHES

ENVIRONMENT = (PATH_VARIABLE, VARIABLE, *SWITCHES)
"""The variables that a decision may depend on."""

Options = tuple[tuple[str, FactValue], ...]


class Answer:
    """A decision about vLLM's objects. The answers to one question are one object.

    ``keys`` are the quantization keys that were asked with.
    """

    __slots__ = ("_backends", "_selected", "decision", "keys")

    def __init__(self, decision: Decision, backends: type[Enum], keys: tuple[Any, Any]) -> None:
        self.decision = decision
        self.keys = keys
        self._backends = backends
        self._selected: tuple[Any, type | None] | None = None

    def selected(self) -> tuple[Any, type | None]:
        """What vLLM's selector returns: the member of its own Enum, and its own class or None.

        Raises InvalidRequestError or NotSupportedError for a decision that failed, so that an
        error of vLLM's type carries the reasons; ValueError for a backend that vLLM's Enum lacks;
        ImportError for a class that does not import, TypeError for one that vLLM cannot run.
        """
        if self._selected is None:
            decision = self.decision
            if decision.backend is None:
                raise refusal(decision)
            backend = vllm_objects.vllm_member(member(self._backends, decision.backend))
            kernel = decision.kernel
            cls = None if kernel is None else vllm_objects.vllm_kernel(kernel, decision.oracle)
            self._selected = backend, cls
        return self._selected


class VllmSelection:
    """Selects for vLLM's objects with the tables of one oracle.

    ``selector`` gives the Selector for the environment as it is; it is asked at the first
    question and wherever a question is new. ``backends`` is this package's Enum of the oracle.

    Questions are asked with vLLM's FusedMoEConfig, its QuantKeys or None, further facts in a
    fixed order, and the ``quant_config`` of an integer layer. Anything else is a TypeError, a
    value that no layer can have a ValueError.
    """

    def __init__(self, oracle: str, backends: type[Enum], selector: Callable[[], Selector]) -> None:
        self.oracle = oracle
        self._backends = backends
        self.selector = selector
        asked = asked_facts(selector().rules, oracle)
        self._engine = tuple((name, read) for name, read in ENGINE_FACTS.items() if name in asked)
        self._answers: dict[tuple[Any, ...], Answer] = {}

    def answer(
        self,
        config: Any,
        weight_key: Any = None,
        activation_key: Any = None,
        options: Options = (),
        quant_config: Any = None,
    ) -> Answer:
        """The answer for one layer, failed or not."""
        layer = LAYER_READERS[type(config)].values(config)
        engine = self._engine and self._engine_values()
        checkpoint = quant_config if quant_config is None else _checkpoint(quant_config)
        # Keys are frozen, and the answer keeps them for as long as their identity stands for them.
        question = (
            *(layer, id(weight_key), id(activation_key), options),
            *(checkpoint, engine, _environment()),
        )
        answer = self._answers.get(question)
        if answer is None:
            keys = (weight_key, activation_key)
            facts = self.facts(config, *keys, options, quant_config)
            answer = Answer(self.selector().decide(self.oracle, facts), self._backends, keys)
            if len(self._answers) >= MAX_REMEMBERED:
                self._answers.clear()
            self._answers[question] = answer
        return answer

    def order(self, *question: Any) -> tuple[str, ...]:
        """Backends in the order in which they are tried for a layer, whatever it requests."""
        facts = {**self.facts(*question), "moe_backend": "auto", "model_role": None}
        return self.selector().decide(self.oracle, facts).order

    def facts(
        self,
        config: Any,
        weight_key: Any = None,
        activation_key: Any = None,
        options: Options = (),
        quant_config: Any = None,
    ) -> dict[str, FactValue]:
        """Everything that vLLM's objects say, as facts; switches and the machine are none."""
        vllm_objects.is_vllms(config, weight_key, activation_key)
        facts = vllm_objects.layer_facts(config)
        facts["weight_key"] = vllm_objects.quant_key(weight_key)
        facts["activation_key"] = vllm_objects.quant_key(activation_key)
        facts.update(options)
        if quant_config is not None:
            cls, values = _checkpoint(quant_config)
            facts.update(CHECKPOINT_READERS[cls].facts(values))
        for (name, _), value in zip(self._engine, self._engine_values(), strict=False):
            is_key = FACTS[name].type == "quant_key"
            facts[name] = vllm_objects.quant_key(value) if is_key else value
        return facts

    def _engine_values(self) -> tuple[Any, ...]:
        """What the rules ask of the engine; nothing where there is no current configuration."""
        current = vllm_objects.current_config()
        return () if current is None else tuple([read(current) for _, read in self._engine])


def _checkpoint(quant_config: Any) -> tuple[type, tuple[Any, ...]]:
    cls = type(quant_config)
    return cls, CHECKPOINT_READERS[cls].values(quant_config)


def _environment() -> tuple[Any, ...]:
    """The variables that matter, as they are.

    Decoding one that is not set takes as long as all the rest of a question, so where Python keeps
    the environment undecoded it is read from there.
    """
    read = os.environ.get if _ENCODED is None else os.environ._data.get  # type: ignore[attr-defined]
    return tuple(map(read, _ENCODED or ENVIRONMENT))


def _encoded() -> tuple[Any, ...] | None:
    encode = getattr(os.environ, "encodekey", None)
    if encode is None or not isinstance(getattr(os.environ, "_data", None), dict):
        return None
    return tuple(encode(name) for name in ENVIRONMENT)


_ENCODED = _encoded()
