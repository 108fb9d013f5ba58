"""The Python source of a package, read from a wheel or a folder without importing any of it."""

from __future__ import annotations

import ast
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from moe_rules.drift.scopes import Scope

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,  # text that is no UTF-8
    RuntimeError,  # encrypted, or compressed in a way that Python does not know
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What files and members of wheels raise that cannot be read."""


class SourceError(ValueError):
    """There is no source of the package where it was looked for, or it cannot be read."""


class Module:
    """One module: its dotted ``name``, its ``file`` inside the source, and what it defines."""

    def __init__(self, name: str, file: str, text: str) -> None:
        self.name, self.file = name, file
        try:
            self.tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = str(error) or "too deeply nested"  # which Python says in no words
            raise SourceError(f"{file}: Python cannot read it: {why}") from None
        self.is_package = file.endswith("/__init__.py")

    @cached_property
    def scope(self) -> Scope:
        """The names of the module."""
        return Scope.of(self.tree.body, self.name if self.is_package else self._parent)

    @property
    def _parent(self) -> str:
        return self.name.rpartition(".")[0]


class Source:
    """The modules of ``package`` in a wheel, a folder that holds the package, or its own folder."""

    def __init__(self, path: Path, package: str) -> None:
        """Raises SourceError where there is none."""
        self.path, self.package = path, package
        self._modules: dict[str, Module | None] = {}
        if not path.exists():
            raise SourceError(f"{path}: there is no such file or folder")
        if path.is_file():
            try:
                self._wheel: zipfile.ZipFile | None = zipfile.ZipFile(path)
            except UNREADABLE as error:
                raise SourceError(f"{path}: a wheel was expected: {error}") from None
            self._names = frozenset(self._wheel.namelist())
            self._folder = path
        else:
            own = path.name == package and (path / "__init__.py").is_file()
            self._wheel, self._folder = None, path.absolute().parent if own else path
            self._names = frozenset()
        if not self._has(f"{package}/__init__.py"):
            known = f"a wheel, a folder that holds {package}/, or that folder itself was expected"
            raise SourceError(f"{path}: there is no package {package}; {known}")

    @cached_property
    def release(self) -> str:
        """Which release it is, without what a build adds ("0.33.0"). Raises SourceError."""
        for name, pattern in (
            (f"{self.package}/_version.py", r"^(?:__version__ = )?version = '(\w[\w.!+-]*)'"),
            (f"{self.package}/version.py", r"^__version__ = ['\"](\w[\w.!+-]*)['\"]"),
        ):
            found = re.search(pattern, self._text(name), re.M) if self._has(name) else None
            if found is not None:
                return found[1].partition("+")[0]
        raise SourceError(f"{self.path}: nothing there says which release of {self.package} it is")

    def module(self, name: str) -> Module | None:
        """A module by its dotted name; None if there is none in the package."""
        if name not in self._modules:
            path = name.replace(".", "/")
            files = [f for f in (f"{path}/__init__.py", f"{path}.py") if self._has(f)]
            self._modules[name] = Module(name, files[0], self._text(files[0])) if files else None
        return self._modules[name]

    def containing(self, words: Sequence[str]) -> Iterator[Module]:
        """The modules whose text has one of some words, sorted by name."""
        for file in sorted(self._files()):
            text = self._text(file)
            if any(word in text for word in words):
                name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                if (module := self.module(name)) is not None:
                    yield module

    def _files(self) -> list[str]:
        if self._wheel is not None:
            return [
                n for n in self._names if n.startswith(f"{self.package}/") and n.endswith(".py")
            ]
        found = (self._folder / self.package).rglob("*.py")
        return [file.relative_to(self._folder).as_posix() for file in found]

    def _has(self, name: str) -> bool:
        if name.split("/")[0].removesuffix(".py") != self.package:
            return False
        return name in self._names if self._wheel else (self._folder / name).is_file()

    def _text(self, name: str) -> str:
        try:
            if self._wheel is not None:
                return self._wheel.read(name).decode()
            return (self._folder / name).read_text(encoding="utf-8")
        except UNREADABLE as error:
            raise SourceError(f"{self.path}: {name}: {error}") from None
