"""Imports a few modules of a large package from their sources, without what they do not need.

An engine's MoE layer imports most of the engine. Here a module is one of: ``given``, attributes
that an adapter sets; ``real``, the file in the unpacked sources; or else absent, so that whatever
is imported from it is a class that does nothing, and fails if it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


class PartialPackage(MetaPathFinder):
    """The finder of one package's modules; :meth:`install` puts it first.

    ``folder``: where the package's sources are. ``real``: names of modules below the package.
    ``given``: attributes by full name of a module.
    """

    def __init__(
        self,
        folder: Path,
        real: Collection[str],
        given: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.name = folder.name
        self._folder = folder.resolve()
        self._real = {f"{self.name}.{module}" for module in real}
        self._given = given

    def install(self) -> None:
        """From now on the package is this. Raises RuntimeError if another one was imported."""
        if self.name in sys.modules:
            raise RuntimeError(f"{self.name} was imported before from elsewhere")
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of the package, whether it exists or not; None for other modules."""
        if fullname.split(".")[0] != self.name:
            return None
        if fullname in self._real:
            file = self._folder.joinpath(*fullname.split(".")[1:])
            package = file.is_dir()
            file = file / "__init__.py" if package else file.with_suffix(".py")
            return importlib.util.spec_from_file_location(
                fullname, file, submodule_search_locations=[] if package else None
            )
        return ModuleSpec(fullname, _Attributes(self), is_package=True)

    def attribute(self, module: str, name: str) -> Any:
        """What ``module`` has as ``name``: given, a submodule, or a class that does nothing."""
        given = self._given.get(module, {})
        fullname = f"{module}.{name}"
        if name in given:
            return given[name]
        if fullname in self._real or fullname in self._given:
            return importlib.import_module(fullname)
        return type(name, (), {"__module__": module})


class _Attributes(Loader):
    """Makes modules that have every attribute they are asked for."""

    def __init__(self, package: PartialPackage) -> None:
        self._package = package

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name, self._package)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: attributes are found when they are asked for."""


class _Module(ModuleType):
    def __init__(self, name: str, package: PartialPackage) -> None:
        super().__init__(name)
        self._package = package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._package.attribute(self.__name__, name)
        setattr(self, name, value)
        return value
