"""What is installed beside vLLM: its probes answer from facts, and what it looks for is put in."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from tools.record.devices import put_module
from tools.record.places import (
    AITER,
    AITER_CACHES,
    B12X_PACKAGE,
    CACHES,
    COMPILED_IN,
    OPERATORS,
    PATCHED_HUMMING,
    PROBES,
    SEES_THE_SYSTEM,
    SEES_TORCH,
    find,
    owner,
)

Has = Callable[[str], bool]
"""Says whether a fact holds in the world that is simulated now."""


def refresh(kind: str, software: Mapping[str, bool]) -> None:
    """Install ``software`` on a kind of device, and let vLLM forget what it found before."""
    import torch

    asks_aiter = find(AITER)
    if asks_aiter is not None:
        owner(AITER).IS_AITER_FOUND = software.get("aiter", False)
    if kind == "rocm":
        _fake_aiter(software)
    for fact, (device, namespace, name) in OPERATORS.items():
        if device == kind:
            operators = getattr(torch.ops, namespace)
            if software.get(fact):
                setattr(operators, name, lambda *args, **kwargs: None)
            else:
                operators.__dict__.pop(name, None)
    if asks_aiter is not None:
        asks_aiter.refresh_env_variables()
        for probe in AITER_CACHES:
            _clear_all(getattr(vars(asks_aiter).get(probe), "__func__", None))
    for places in CACHES:
        _clear_all(find(places))


def replace_probes(has: Has) -> None:
    """Let probes answer what ``has`` says, in every module of vLLM that has imported them."""
    answers: dict[int, Callable[..., Any]] = {}
    for fact, places in PROBES.items():
        answers[id(find(places))] = _answer(has, fact)
    package = SimpleNamespace(is_supported=_answer(has, "b12x_is_supported"))
    answers[id(find(B12X_PACKAGE))] = lambda: package if has("b12x_fused_moe") else None
    for fact, places in COMPILED_IN.items():
        real = find(places)
        answers[id(real)] = _compiled_in(has, fact, real)
    answers.pop(id(None), None)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "vllm" and module is not None:
            for attribute, value in list(vars(module).items()):
                if id(value) in answers:
                    setattr(module, attribute, answers[id(value)])


def _answer(has: Has, fact: str) -> Callable[[], bool]:
    return lambda: has(fact)


def _compiled_in(has: Has, fact: str, real: Callable[[int], bool]) -> Callable[[int], bool]:
    return lambda capability: has(fact) and real(capability)


def hide_from_cpu_kernels(has: Has, system: str) -> None:
    """Hide from the modules that look for them what is there: Linux, torch's 4-bit products."""
    import torch

    sees_system, sees_torch = owner(SEES_THE_SYSTEM), owner(SEES_TORCH)
    if sees_system is not None:
        sees_system.sys = SimpleNamespace(platform=system)
    if sees_torch is None:
        return

    class Aten:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("_dyn_quant") and not has("torch_dyn_quant_4bit_ops"):
                raise AttributeError(name)
            return getattr(torch.ops.aten, name)

    class Operators:
        aten = Aten()

        def __getattr__(self, name: str) -> Any:
            return getattr(torch.ops, name)

    class Torch:
        ops = Operators()

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    sees_torch.torch = Torch()


def _fake_aiter(software: Mapping[str, bool]) -> None:
    """An AITER whose fused_moe has the parameters that vLLM looks for."""
    extra = [n for n in ("gate_mode", "quant_dtype_a") if software.get(f"aiter_fused_moe_{n}")]
    parameters = ", ".join(["hidden_states", "w1", "w2", *(f"{name}=None" for name in extra)])
    scope: dict[str, Any] = {}
    exec(f"def fused_moe({parameters}): raise NotImplementedError", scope)
    put_module("aiter")
    put_module("aiter.fused_moe", fused_moe=scope["fused_moe"])


def fake_humming() -> None:
    """The one Enum of Humming that vLLM reads while it selects (humming-kernels 0.1.19).

    Nothing else of it is there, so a release that changes more of it is told that it has.
    """
    kinds = ("dense", "indexed", "grouped_contiguous", "grouped_masked")
    put_module("humming")
    changes_it = owner(PATCHED_HUMMING, needed=False)
    if changes_it is not None:
        changes_it._patched = True
    put_module("humming.config", GemmType=enum.Enum("GemmType", {k.upper(): k for k in kinds}))


def _clear_all(function: Any) -> None:
    """Clear the cache of a function that may be below decorators."""
    while function is not None:
        clear = getattr(function, "cache_clear", None)
        if clear is not None:
            clear()
        function = getattr(function, "__wrapped__", None)
