"""Puts functions in the place of vLLM's, in every module that holds them.

vLLM's modules bind its functions by ``from ... import``, so a function has as many holders as
importers. Those that exist are found in ``sys.modules``; a module that is not imported yet is
changed as soon as it has been, before anything can import from it. So it does not matter what was
imported first, and nothing is imported that the engine would not import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Function = Callable[..., Any]
Replace = Callable[[str, Function], Function]
"""From the name of a function, as "module:function", and the function to what takes its place."""

_REPLACEMENT = "__moe_rules_replaces__"
"""Attribute of a replacement: the function whose place it has."""


def replace_functions(names: Sequence[str], replace: Replace) -> None:
    """Replace each function ("module:function") now, or when its module is imported.

    What is replaced already stays. A module without the function is left alone.
    """
    pending: dict[str, list[str]] = {}
    for name in names:
        module, _, function = name.partition(":")
        pending.setdefault(module, []).append(function)
    loaded = {module: pending.pop(module) for module in list(pending) if module in sys.modules}
    for module, functions in loaded.items():
        _replace_in(sys.modules[module], functions, replace)
    if pending:
        sys.meta_path.insert(0, _AfterImport(pending, replace))


def original_of(function: Function) -> Function | None:
    """The function in whose place ``function`` was put, or None if it is no replacement."""
    original: Function | None = getattr(function, _REPLACEMENT, None)
    return original


def _replace_in(module: ModuleType, functions: Sequence[str], replace: Replace) -> None:
    for function in functions:
        original = getattr(module, function, None)
        if original is None or original_of(original) is not None:
            continue
        replacement = replace(f"{module.__name__}:{function}", original)
        setattr(replacement, _REPLACEMENT, original)
        for holder in _holders(original, module):
            for name, value in list(vars(holder).items()):
                if value is original:
                    setattr(holder, name, replacement)


def _holders(original: Function, home: ModuleType) -> list[ModuleType]:
    package = home.__name__.partition(".")[0]
    loaded = [m for name, m in list(sys.modules.items()) if name.partition(".")[0] == package]
    return [home, *(module for module in loaded if isinstance(module, ModuleType))]


class _AfterImport(MetaPathFinder):
    """Lets the other finders find a module, and changes it when it has been executed."""

    def __init__(self, pending: Mapping[str, Sequence[str]], replace: Replace) -> None:
        self._pending = pending
        self._replace = replace

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        functions = self._pending.get(fullname)
        if functions is None:
            return None
        others = (f for f in list(sys.meta_path) if not isinstance(f, _AfterImport))
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if module.__name__ == fullname:  # a loader may serve several modules
                    _replace_in(module, functions, self._replace)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
