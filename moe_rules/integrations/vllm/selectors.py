"""vLLM's ten selectors, and what the tables answer in their place."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from enum import Enum
from operator import methodcaller
from typing import Any, NamedTuple

from moe_rules.language.requested import ROLE
from moe_rules.language.ruleset import overlay_paths
from moe_rules.oracles import backends
from moe_rules.oracles.vllm_machine import (
    DEVICES,
    device_kind,
    platform,
    probe,
    this_device,
    vllm_release,
)
from moe_rules.oracles.vllm_selection import Answer, VllmSelection
from moe_rules.selectors.selector import Selector, selector_in
from moe_rules.vocabulary.fact_values import FactValue


class Replaced(NamedTuple):
    """One of vLLM's selectors, as module:function below its oracles, and our Enum of backends."""

    function: str
    backends: type[Enum]


Question = tuple[Any, Any, Any, tuple[tuple[str, FactValue], ...], Any]
"""A call of a selector: its layer, weight and activation key, further facts by name, checkpoint."""

PACKAGE = "vllm.model_executor.layers.fused_moe.oracle"
SELECTORS = {
    "unquantized": Replaced(
        "unquantized:select_unquantized_moe_backend", backends.UnquantizedMoeBackend
    ),
    "fp8": Replaced("fp8:select_fp8_moe_backend", backends.Fp8MoeBackend),
    "int8": Replaced("int8:select_int8_moe_backend", backends.Int8MoeBackend),
    "int_wna16": Replaced("int_wna16:select_wna16_moe_backend", backends.WNA16MoEBackend),
    "mxfp4": Replaced("mxfp4:select_mxfp4_moe_backend", backends.Mxfp4MoeBackend),
    "mxfp4_deepseek_v4": Replaced(
        "mxfp4:select_deepseek_v4_mxfp4_moe_backend", backends.Mxfp4MoeBackend
    ),
    "mxfp8": Replaced("mxfp8:select_mxfp8_moe_backend", backends.Fp8MoeBackend),
    "nvfp4": Replaced("nvfp4:select_nvfp4_moe_backend", backends.NvFp4MoeBackend),
    "w4a8": Replaced("w4a8:select_w4a8_moe_backend", backends.W4A8MoeBackend),
    "w4a8_int8": Replaced("w4a8_int8:select_w4a8_int8_moe_backend", backends.W4A8Int8MoeBackend),
}
"""By oracle."""


DRAFT_TAGS = {
    *("draft_model", "eagle_head", "dflash_head", "dspark_head", "lilicorr_head"),
    "extract_hidden_states",
}
"""What vLLM calls the part of an engine that it builds, where that is a draft model.

Source: the callers of ``set_model_tag`` in vLLM's ``v1/spec_decode`` and ``v1/worker/gpu``.
"""
_DRAFT = ((ROLE, "draft"),)


def loads_draft() -> bool:
    """Whether vLLM is building the draft model of speculative decoding."""
    backends = sys.modules.get("vllm.compilation.backends")
    return backends is not None and backends.model_tag in DRAFT_TAGS


def selector_now() -> Selector:
    """The selector for the environment as it is, of the release of vLLM that runs here.

    Software is found out as rules ask about it.

    Raises RuleFileError for overlays and FactError for requests that are wrong.
    """
    overlays = overlay_paths(release=vllm_release().name)
    return selector_in(os.environ, this_device(), overlays, probe)


class Tables:
    """The tables in the place of one selector of vLLM's, called as that is.

    ``original`` is the selector: its parameters say what a call means.
    """

    def __init__(self, oracle: str, original: Callable[..., Any]) -> None:
        self.oracle = oracle
        self._signature = inspect.signature(original)
        self._names = tuple(self._signature.parameters)
        self._known = frozenset(self._names)
        self._defaults = {
            name: parameter.default
            for name, parameter in self._signature.parameters.items()
            if parameter.default is not parameter.empty
        }
        self._selections: dict[str, VllmSelection] = {}
        self._here: tuple[Any, Callable[[Any], bool], VllmSelection] | None = None

    @property
    def _selection(self) -> VllmSelection:
        """The selection on this kind of device, which is asked in every call, as vLLM does."""
        if self._here is not None:
            here, is_still, selection = self._here
            if is_still(here):
                return selection
        kind = device_kind()
        if kind not in self._selections:
            enum = SELECTORS[self.oracle].backends
            self._selections[kind] = VllmSelection(self.oracle, enum, selector_now)
        selection = self._selections[kind]
        self._here = platform(), methodcaller(DEVICES[kind]), selection
        return selection

    def answer(self, question: Question) -> Answer:
        """The answer to one call, failed or not. Raises TypeError for objects of other classes."""
        return self._selection.answer(*question)

    def facts(self, question: Question) -> dict[str, FactValue]:
        """What a call says, as facts. Raises as :meth:`answer`."""
        return self._selection.facts(*question)

    def question(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Question:
        """What a call asks. Raises TypeError, as vLLM's selector does, for other arguments."""
        names = self._names
        given = {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs.copy()
        said_once = len(given) == len(args) + len(kwargs)
        if len(given) != len(names):
            given = {**self._defaults, **given}
        if given.keys() != self._known or not said_once:
            self._signature.bind(*args, **kwargs)  # says what is wrong
        take = given.pop
        layer, weight_key = take(names[0]), take("weight_key", None)
        activation_key, checkpoint = take("activation_key", None), take("quant_config", None)
        options = tuple(given.items()) if given else ()
        if loads_draft():
            options = (*options, *_DRAFT)
        return layer, weight_key, activation_key, options, checkpoint
