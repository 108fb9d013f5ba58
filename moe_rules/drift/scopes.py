"""What a module or a class defines by name, as the syntax tree has it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Scope:
    """The names of a module, of a class, or of the imports inside a function.

    ``imported`` has for each name the module, and the name in it (None: the module itself).
    ``values`` has the statements that assign a name, ``declared`` its annotation, and ``bare`` the
    statement of an annotation without a value.
    """

    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    functions: dict[str, list[Function]] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    values: dict[str, list[ast.AST]] = field(default_factory=dict)
    declared: dict[str, ast.expr] = field(default_factory=dict)
    bare: dict[str, ast.AST] = field(default_factory=dict)

    @classmethod
    def of(cls, body: Sequence[ast.stmt], package: str) -> Scope:
        """The names that statements define; ``package`` is where relative imports begin."""
        scope = cls()
        for statement in _flat(body):
            scope._add(statement, package)
        return scope

    def add_imports(self, statement: ast.stmt, package: str) -> None:
        """The names that an import binds."""
        if isinstance(statement, ast.Import):
            for name in statement.names:
                whole = name.name if name.asname else name.name.partition(".")[0]
                self.imported[name.asname or whole] = (whole, None)
        elif isinstance(statement, ast.ImportFrom):
            module = statement.module or ""
            if statement.level:
                parts = package.split(".")
                above = parts[: len(parts) - statement.level + 1]
                module = ".".join([*above, *filter(None, [module])])
            for name in statement.names:
                self.imported[name.asname or name.name] = (module, name.name)

    def _add(self, statement: ast.stmt, package: str) -> None:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.functions.setdefault(statement.name, []).append(statement)
            case ast.ClassDef():
                self.classes[statement.name] = statement
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    for name in _names(target):
                        self.values.setdefault(name, []).append(statement)
                self._add_entries(value)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                self.declared[name] = annotation
                if value is not None:
                    self.values.setdefault(name, []).append(statement)
                    self._add_entries(value)
                else:
                    self.bare.setdefault(name, statement)
            case _:
                self.add_imports(statement, package)

    def _add_entries(self, value: ast.expr) -> None:
        """A mapping of names to functions may be where a module looks up its attributes."""
        for key, entry in _entries(value):
            self.values[key] = [entry]


def _flat(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, with those that stand under a condition or a try."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _flat(getattr(statement, part, ()))
            for handler in getattr(statement, "handlers", ()):
                yield from _flat(handler.body)
        else:
            yield statement


def _names(target: ast.expr) -> Iterator[str]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name):
            yield node.id


def _entries(value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """The entries of a mapping of texts to functions."""
    if isinstance(value, ast.Dict):
        for key, entry in zip(value.keys, value.values, strict=True):
            function = isinstance(entry, ast.Lambda | ast.Call)
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and function:
                yield key.value, entry


def parameters(function: Function) -> Mapping[str, ast.expr | None]:
    """The parameters of a function, with their annotations."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {one.arg: one.annotation for one in every if one is not None}
