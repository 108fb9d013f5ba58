"""What a definition uses of the rest of the package: what it calls, reads and names.

Found by names, imports (also those inside functions), ``self``, ``cls``, ``super()``, annotated
parameters, fields and results. What only running the code would tell (a method of a value of
unknown class) is not followed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from moe_rules.drift.definitions import (
    Class,
    Definition,
    Definitions,
    Found,
    Instance,
    function_of,
)
from moe_rules.drift.fingerprint import is_silent
from moe_rules.drift.scopes import Scope, parameters


def uses(definitions: Definitions, of: Definition) -> list[Definition]:
    """The definitions that one uses itself, each once, in the order in which it does.

    What a class is apart from its methods uses nothing; each of its fields may.
    """
    if of.owner is not None and of is of.owner.itself:
        return []
    found = dict.fromkeys(
        used
        for node in of.nodes
        for used in _Reader(definitions, of, node).definitions()
        if used is not of
    )
    return list(found)


class _Reader:
    """Reads one piece of code."""

    def __init__(self, definitions: Definitions, of: Definition, node: ast.AST) -> None:
        self.definitions_, self.of, self.node = definitions, of, node
        self.found: list[Definition] = []
        self.local = Scope()
        package = of.module.name if of.module.is_package else of.module.name.rpartition(".")[0]
        self.types: dict[str, ast.expr | None] = {}
        self.own: set[str] = set()
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                self.local.add_imports(inner, package)
            elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                if not isinstance(inner, ast.Lambda):
                    self.types.update(parameters(inner))
                    if inner is not node:
                        self.own.add(inner.name)
                else:
                    self.types.update({one.arg: None for one in inner.args.args})
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                self.own.add(inner.id)
        if function_of(of) is None:
            self.own.clear()  # what it assigns is what it is

    def definitions(self) -> Iterator[Definition]:
        self._read(self.node)
        yield from self.found

    def _read(self, node: ast.AST) -> None:
        if is_silent(node):
            return
        if isinstance(node, ast.Name | ast.Attribute | ast.Call):
            self._value(node)
            return
        skipped = ("annotation", "returns")
        for name, part in ast.iter_fields(node):
            if name in skipped:
                continue
            for one in part if isinstance(part, list) else [part]:
                if isinstance(one, ast.AST):
                    self._read(one)

    def _value(self, node: ast.AST) -> Found | None:
        """What an expression is; what it uses is noted."""
        match node:
            case ast.Name(id=name):
                return self._noted(self._name(name))
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=attribute):
                if self.of.owner is None:
                    return None
                above = self.definitions_.methods(self.of.owner, attribute, above=True)
                return self._noted(next(above, None))
            case ast.Attribute(value=value, attr=attribute):
                base = self._name(value.id) if isinstance(value, ast.Name) else self._value(value)
                if not isinstance(base, Class):
                    self._noted(base)
                return self._attribute(base, attribute)
            case ast.Call(func=function, args=args, keywords=keywords):
                called = self._value(function)
                for argument in (*args, *(one.value for one in keywords)):
                    self._read(argument)
                return self._result(called)
            case _:
                self._read(node)
                return None

    def _name(self, name: str) -> Found | None:
        if name in self.types:
            if name in ("self", "cls") and self.of.owner is not None:
                return Instance(self.of.owner)
            found = self.definitions_.annotated(self.of.module, self.types[name])
            return None if found is None else Instance(found)
        if name in self.local.imported:
            return self.definitions_.imported(self.local.imported[name])
        if name in self.own:
            return None
        return self.definitions_.member(self.of.module, name)

    def _attribute(self, base: Found | None, name: str) -> Found | None:
        if base is None:
            return None
        if isinstance(base, Instance):
            for one in self.definitions_.overrides(base.of, name):
                self._noted(one)
        found = self._noted(self.definitions_.member(base, name))
        if isinstance(found, Definition) and isinstance(base, Instance) and _is_property(found):
            return self._result(found)
        if found is None and isinstance(base, Class | Instance):
            return self._field(base if isinstance(base, Class) else base.of, name)
        return found

    def _field(self, of: Class, name: str) -> Found | None:
        """The value of a class's field."""
        field = self.definitions_.field(of, name)
        if field is None or field.owner is None:
            return None
        self._noted(field)
        annotation = field.owner.scope.declared.get(name)
        found = self.definitions_.annotated(field.module, annotation)
        return None if found is None else Instance(found)

    def _result(self, called: Found | None) -> Found | None:
        """What a call gives."""
        if isinstance(called, Class):
            for name in ("__init__", "__post_init__"):
                self._noted(self.definitions_.member(called, name))
            return Instance(called)
        function = function_of(called) if isinstance(called, Definition) else None
        if function is None or not isinstance(called, Definition):
            return None
        found = self.definitions_.annotated(called.module, function.returns)
        return None if found is None else Instance(found)

    def _noted(self, found: Found | None) -> Found | None:
        if isinstance(found, Class):
            self.found.append(found.itself)
        elif isinstance(found, Definition):
            self.found.append(found)
        return found


def _is_property(definition: Definition) -> bool:
    function = function_of(definition)
    names = [] if function is None else function.decorator_list
    return any(isinstance(n, ast.Name) and n.id.endswith("property") for n in names)
