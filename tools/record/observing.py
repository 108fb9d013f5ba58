"""Watches one call of a select function of vLLM: what was asked in which order, and the answers.

Nothing is decided here. Every kernel class's ``is_supported_config`` is passed through and noted,
and what a select function had in its variables is read as it returns (``sys.setprofile``). The
kernels of the order that it did not come to are asked afterwards, as it would have asked them.

Import after :func:`tools.record.simulation.start`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from vllm.model_executor.layers.fused_moe import modular_kernel
from vllm.model_executor.layers.quantization.utils import quant_utils

from tools.record.places import (
    BACKEND_REFUSAL,
    ORACLES,
    ORDER,
    PRIORITY_FUNCTIONS,
    REQUESTED,
    OraclePlaces,
    find,
    owner,
    present_oracles,
)

_Supported = Callable[..., tuple[bool, str | None]]
_KEY_NAMES: dict[Any, str] = {}
for _name, _value in vars(quant_utils).items():
    if _name.startswith("k") and isinstance(_value, quant_utils.QuantKey):
        _KEY_NAMES.setdefault(_value, _name)


@dataclass
class Seen:
    """What was seen of one call. ``asking`` is how deep in a kernel's own questions we are."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)
    initial: list[Any] | None = None
    asking: int = 0


class Oracle:
    """One oracle of vLLM: its functions, and how it asks the kernels of a backend."""

    def __init__(self, name: str, places: OraclePlaces) -> None:
        self.name = name
        self.select = find(places.selector)
        self.classes = find(places.place(places.classes))
        self.backends = find(places.place(places.backends))
        self.module = owner(places.selector)
        self._fixed = places.asks_with
        key = places.key_of_backend
        self._key_of_backend = find(places.place(key)) if key else None
        refusal_module, _, refusal = BACKEND_REFUSAL.partition(":")
        self.refuses_backends = self.module.__name__ == refusal_module and hasattr(
            self.module, refusal
        )

    @property
    def names_keys(self) -> bool:
        """Answers say with which activation key a kernel was asked, for it differs by backend."""
        return self._key_of_backend is not None

    def kernels(self, backend: Any) -> list[type]:
        """The kernel classes of a backend, none where vLLM knows none."""
        try:
            return list(self.classes(backend))
        except ValueError:  # members that stand for "no kernel" are in no list
            return []

    def keys(self, backend: Any, given: tuple[Any, Any], requested_key: Any) -> tuple[Any, Any]:
        """The weight and activation keys that the kernels of a backend are asked with."""
        if self._fixed is None:
            return given
        weight, activation = (name and getattr(quant_utils, name) for name in self._fixed)
        if self._key_of_backend is not None:
            # What emulates takes any activations: it is asked with those that are wanted.
            emulates = backend.name == "EMULATION" and "activation_key" in ORACLES[self.name].takes
            activation = requested_key if emulates else self._key_of_backend(backend)
        return weight, activation


class Observer:
    """Watches the oracles that this release has. There is one in a process."""

    def __init__(self) -> None:
        self.oracles = {name: Oracle(name, ORACLES[name]) for name in present_oracles()}
        self.seen = Seen()
        self._supported: dict[type, _Supported] = {}
        for cls in _kernel_classes(self.oracles.values()):
            self._watch(cls)
        self._selecting = {one.select.__code__ for one in self.oracles.values()}
        self._ordering = {
            function.__code__
            for one in self.oracles.values()
            for name, function in vars(one.module).items()
            if name.startswith(PRIORITY_FUNCTIONS)
        }
        self._refusal = find((BACKEND_REFUSAL,))
        if self._refusal is not None:
            module, _, name = BACKEND_REFUSAL.partition(":")
            setattr(importlib.import_module(module), name, self._refusing)

    def run(self, oracle: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
        """The ``expect`` of a case: what the oracle came to with these arguments, and how."""
        one = self.oracles[oracle]
        self.seen = seen = Seen()
        sys.setprofile(self._profile)
        try:
            outcome = one.select(*args, **options)
        except Exception as error:
            outcome = error
        finally:
            sys.setprofile(None)
        variables = seen.variables
        order = _first(variables, ORDER)
        initial = order if seen.initial is None else seen.initial
        requested = _first(variables, REQUESTED)
        if requested is not None and not isinstance(requested, list):
            requested = [requested]
        names, before = _names(order), _names(initial)
        asked = [self._answer(one, answer) for answer in seen.answers]
        return {
            **_outcome(outcome),
            "priority": names,
            "priority_initial": None if before == names else before,
            "requested": _names(requested),
            "tried": asked,
            "not_reached": list(self._not_reached(one, args[0], options, initial or [], asked)),
        }

    # What is watched -----------------------------------------------------------------------------

    def _watch(self, cls: type) -> None:
        original: _Supported = cls.is_supported_config  # type: ignore[attr-defined]
        self._supported[cls] = original

        def is_supported_config(*args: Any, **kwargs: Any) -> tuple[bool, str | None]:
            # A class that asks its base is no question of the oracle's.
            if self.seen.asking:
                return original(*args, **kwargs)
            backend = sys._getframe(1).f_locals.get("backend")
            name = getattr(backend, "name", None)
            answer = {"backend": name, "kernel": args[0].__name__, "activation": args[3]}
            self.seen.answers.append(answer)
            try:
                return self._ask(answer, original, *args, **kwargs)
            except Exception as error:
                answer["error"] = error
                raise

        cls.is_supported_config = staticmethod(is_supported_config)  # type: ignore[attr-defined]

    def _ask(
        self, answer: dict[str, Any], supported: _Supported, *args: Any, **kwargs: Any
    ) -> tuple[bool, str | None]:
        self.seen.asking += 1
        try:
            yes, reason = supported(*args, **kwargs)
        finally:
            self.seen.asking -= 1
        answer |= {"supported": bool(yes), "reason": reason}
        return yes, reason

    def _refusing(self, backend: Any, *args: Any, **kwargs: Any) -> str | None:
        reason: str | None = self._refusal(backend, *args, **kwargs)
        if reason is not None and not self.seen.asking:
            self.seen.answers.append(_refused(backend, reason))
        return reason

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "return":
            return
        if frame.f_code in self._selecting:
            self.seen.variables = dict(frame.f_locals)
        elif frame.f_code in self._ordering and argument is not None:
            self.seen.initial = list(argument)

    # What was not reached ------------------------------------------------------------------------

    def _not_reached(
        self,
        oracle: Oracle,
        config: Any,
        options: Mapping[str, Any],
        order: Iterable[Any],
        asked: Iterable[Mapping[str, Any]],
    ) -> Iterator[dict[str, Any]]:
        variables = self.seen.variables
        formats = modular_kernel.FusedMoEActivationFormat
        batched = config.moe_parallel_config.use_batched_activation_format
        form = variables.get("activation_format")
        if form is None:
            form = formats.BatchedExperts if batched else formats.Standard
        given = (options.get("weight_key"), options.get("activation_key"))
        requested_key = variables.get("requested_activation_key")
        done = {(answer["backend"], answer["kernel"]) for answer in asked}
        for backend in order:
            if oracle.refuses_backends:
                reason = self._refusal_of(backend, config, options)
                if reason is not None:
                    if (backend.name, None) not in done:
                        yield self._answer(oracle, _refused(backend, reason))
                    continue
            keys = oracle.keys(backend, given, requested_key)
            for cls in oracle.kernels(backend):
                if (backend.name, cls.__name__) not in done:
                    answer = {
                        "backend": backend.name,
                        "kernel": cls.__name__,
                        "activation": keys[1],
                    }
                    try:
                        self._ask(answer, self._supported[cls], cls, config, *keys, form)
                    except Exception as error:
                        answer["error"] = error
                    yield self._answer(oracle, answer)

    def _refusal_of(self, backend: Any, config: Any, options: Mapping[str, Any]) -> str | None:
        others = [value for name, value in options.items() if name != "weight_key"]
        reason: str | None = self._refusal(backend, config, *others)
        return reason

    def _answer(self, oracle: Oracle, seen: Mapping[str, Any]) -> dict[str, Any]:
        """An answer as cases have it."""
        answer = {"backend": seen["backend"], "kernel": seen["kernel"]}
        error = seen.get("error")
        answer["supported"] = None if error else seen["supported"]
        reason = f"{type(error).__name__}: {error}" if error else seen["reason"]
        if reason is not None:
            answer["reason"] = reason
        if oracle.names_keys:
            key = seen["activation"]
            answer["activation"] = None if key is None else _KEY_NAMES.get(key)
        return answer


def _refused(backend: Any, reason: str) -> dict[str, Any]:
    return {"backend": backend.name, "kernel": None, "supported": False, "reason": reason}


def _kernel_classes(oracles: Iterable[Oracle]) -> list[type]:
    """Every class of kernels that there is once those of all backends have been imported."""
    for oracle in oracles:
        for backend in oracle.backends:
            oracle.kernels(backend)
    found: dict[type, None] = {}
    todo: list[type] = [modular_kernel.FusedMoEExperts]
    while todo:
        cls = todo.pop()
        if cls not in found:
            found[cls] = None
            todo += cls.__subclasses__()
    return list(found)


def _first(variables: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((variables[name] for name in names if variables.get(name) is not None), None)


def _names(backends: Iterable[Any] | None) -> list[str] | None:
    return None if backends is None else [backend.name for backend in backends]


def _outcome(outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, Exception):
        return {
            "outcome": "error",
            "error_type": type(outcome).__name__,
            "error_message": str(outcome),
        }
    backend, kernel = outcome
    return {
        "outcome": "selected",
        "backend": backend.name,
        "backend_value": backend.value,
        "kernel": None if kernel is None else kernel.__name__,
    }
