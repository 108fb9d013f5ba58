"""Reads a release: finds what is cited, and what that uses, in a source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch

from moe_rules.drift.citations import SECTIONS, CallerSources, SourcesFile
from moe_rules.drift.definitions import Class, Definition, Definitions
from moe_rules.drift.release import Part, Print, Release
from moe_rules.drift.scopes import Function
from moe_rules.drift.source import Module, Source, SourceError
from moe_rules.drift.uses import uses
from moe_rules.files.problems import Location


def read_release(source: Source, cited: SourcesFile) -> Release:
    """What a source has of what is cited.

    What is cited and is not there is left out: that it is gone is for a comparison to say.
    Raises SourceError.
    """
    return _Reader(source, cited).release()


class _Reader:
    def __init__(self, source: Source, cited: SourcesFile) -> None:
        self.source, self.cited = source, cited
        self.definitions = Definitions(source, cited.overriding)
        self.used: dict[Definition, list[Definition]] = {}

    def release(self) -> Release:
        parts = {part: self._named(names) for part, names in self._citations() if names}
        for one in [one for roots in parts.values() for one in roots]:
            self._follow(one)
        for kernel in self._kernels():  # two classes may have one name
            parts.setdefault(("kernels", kernel.node.name), []).extend(self._asked(kernel))
        for one in [one for part, roots in parts.items() if part[0] == "kernels" for one in roots]:
            self._follow(one)
        for file, callers in self.cited.callers.items():
            rows = self._rows(callers)
            for one in self._callers(callers.of):
                names = [name for name, module in rows.items() if _is_in(one.module.name, module)]
                for name in names:
                    parts.setdefault((file, str(callers.rows), name), []).append(one)
                if not names:
                    parts.setdefault((file,), []).append(one)
        cited = (one for roots in parts.values() for one in roots)
        prints = {one.name: self._print(one) for one in (*self.used, *cited)}
        if not prints:
            raise SourceError(f"{self.source.path}: nothing is there of what the tables say again")
        return Release(
            self.cited.package,
            self.source.release,
            {name: prints[name] for name in sorted(prints)},
            {part: tuple(_names(roots)) for part, roots in sorted(parts.items())},
        )

    def _print(self, one: Definition) -> Print:
        used = tuple(sorted(use.name for use in self.used.get(one, ())))
        return Print(one.fingerprint, used, Location(one.module.file, one.line))

    def _citations(self) -> Iterator[tuple[Part, list[str]]]:
        for oracle, sources in self.cited.oracles.items():
            for key in ("whole", *SECTIONS):
                names = [f"{sources.module}:{name}" for name in getattr(sources, key)]
                yield ("oracles", oracle, *([key] if key in SECTIONS else [])), names
        for file, names in self.cited.files.items():
            yield (file,), names

    def _named(self, names: Iterable[str]) -> list[Definition]:
        found = map(self.definitions.named, names)
        return [one.itself if isinstance(one, Class) else one for one in found if one is not None]

    def _follow(self, root: Definition) -> None:
        """Note what a definition uses, and what that uses."""
        waiting = [root]
        while waiting:
            one = waiting.pop()
            if one not in self.used:
                found = uses(self.definitions, one)
                self.used[one] = [use for use in found if use.name not in self.cited.aside]
                waiting += self.used[one]

    def _kernels(self) -> list[Class]:
        """The classes of kernels that the oracles name."""
        base = self.definitions.named(self.cited.kernels.base)
        owners = [one.owner for one in self.used if one.owner and one is one.owner.itself]
        return [one for one in owners if base in self.definitions.lineage(one)[1:]]

    def _asked(self, kernel: Class) -> list[Definition]:
        """The methods by which a kernel is asked, its own or those of the nearest base."""
        names = dict.fromkeys(
            name
            for one in self.definitions.lineage(kernel)
            for name in one.scope.functions
            if any(fnmatch(name, pattern) for pattern in self.cited.kernels.asked)
        )
        found = (next(self.definitions.methods(kernel, name), None) for name in names)
        return [kernel.itself, *(one for one in found if one is not None)]

    def _rows(self, callers: CallerSources) -> dict[str, str]:
        """The modules of the rows, as a registry has them; relative ones are beside it."""
        registry = self.source.module(callers.registry) if callers.registry else None
        found: dict[str, str] = {}
        for statements in registry.scope.values.values() if registry else ():
            for mapping in (one.value for one in statements if isinstance(one, ast.Assign)):
                for key, value in _pairs(mapping):
                    inside = value.startswith(f"{self.cited.package}.")
                    beside = str(callers.registry).rpartition(".")[0]
                    found[key] = value if inside else f"{beside}.{value}"
        return found

    def _callers(self, patterns: list[str]) -> Iterator[Definition]:
        """The functions that call any of these, and those of such a name that nothing cites."""
        words = [max(pattern.split("*"), key=len) for pattern in patterns]
        for module in self.source.containing(words):
            for name, function in _functions(module):
                calls = any(_calls(node, patterns) for node in ast.walk(function))
                if not calls and not _matches(name.rpartition(".")[2], patterns):
                    continue
                found = self.definitions.named(f"{module.name}:{name}")
                if isinstance(found, Definition) and found not in self.used:
                    yield found


def _names(definitions: Iterable[Definition]) -> list[str]:
    return sorted({one.name for one in definitions})


def _pairs(mapping: ast.expr) -> Iterator[tuple[str, str]]:
    """The texts of a mapping, and the first text of each one's tuple."""
    if not isinstance(mapping, ast.Dict):
        return
    for key, value in zip(mapping.keys, mapping.values, strict=True):
        match key, value:
            case ast.Constant(value=str(name)), ast.Tuple(elts=[ast.Constant(value=str(text)), *_]):
                yield name, text


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _functions(module: Module) -> Iterator[tuple[str, Function]]:
    """The functions and methods of a module by their names in it."""
    for name, several in module.scope.functions.items():
        yield name, several[-1]
    for name, node in module.scope.classes.items():
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{inner.name}", inner


def _calls(node: ast.AST, patterns: list[str]) -> bool:
    if not isinstance(node, ast.Call):
        return False
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _matches(name, patterns)
    return False


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
