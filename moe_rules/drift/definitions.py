"""Definitions of a package by name: found through imports, base classes and annotations."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from moe_rules.drift.fingerprint import fingerprint, is_silent
from moe_rules.drift.scopes import Function, Scope
from moe_rules.drift.source import Module, Source


@dataclass(frozen=True, eq=False)
class Definition:
    """A function, a method, a value, or what a class is apart from its methods.

    ``name`` is "module:Class.method"; ``nodes`` are several where a name is defined repeatedly.
    """

    module: Module
    qualified: str
    nodes: Sequence[ast.AST]
    owner: Class | None = None

    @property
    def name(self) -> str:
        """By which it is known."""
        return f"{self.module.name}:{self.qualified}"

    @property
    def line(self) -> int:
        """Where it begins."""
        return min(getattr(node, "lineno", 1) for node in self.nodes)

    @cached_property
    def fingerprint(self) -> str:
        """See :mod:`moe_rules.drift.fingerprint`."""
        return fingerprint(self.nodes)


@dataclass(frozen=True, eq=False)
class Class:
    """A class, and where it is."""

    module: Module
    node: ast.ClassDef

    @cached_property
    def scope(self) -> Scope:
        """Its members."""
        return Scope.of(self.node.body, "")

    @cached_property
    def itself(self) -> Definition:
        """What it is apart from its methods: bases, decorators, fields, members of an Enum."""
        methods = (ast.FunctionDef, ast.AsyncFunctionDef)
        body = [
            one for one in self.node.body if not isinstance(one, methods) and not is_silent(one)
        ]
        bare = ast.ClassDef(
            name=self.node.name,
            bases=self.node.bases,
            keywords=self.node.keywords,
            body=body,
            decorator_list=self.node.decorator_list,
        )
        return Definition(self.module, self.node.name, [ast.copy_location(bare, self.node)], self)


@dataclass(frozen=True)
class Instance:
    """A value of a class."""

    of: Class


Found = Module | Class | Definition | Instance


class Definitions:
    """Looks names up in a source. Every class and definition is one object."""

    def __init__(self, source: Source, overriding: Sequence[str] = ()) -> None:
        """``overriding`` are modules whose classes may stand for those that they derive from."""
        self.source, self._overriding = source, overriding
        self._known: dict[tuple[str, str], Class | Definition] = {}
        self._lineages: dict[Class, list[Class]] = {}
        self._declaring: set[str] = set()

    def named(self, name: str) -> Class | Definition | None:
        """What "module:name" or "module:Class.method" is."""
        module_name, _, qualified = name.partition(":")
        module = self.source.module(module_name)
        if module is None:
            return None
        first, *rest = qualified.split(".")
        found = self.member(module, first)
        for part in rest:
            found = None if found is None else self.member(found, part)
        return found if isinstance(found, Class | Definition) else None

    def member(self, of: Found, name: str) -> Found | None:
        """What an attribute of something is."""
        match of:
            case Module():
                return self._in_module(of, name, ())
            case Class():
                return next(self.methods(of, name), None)
            case Instance():
                return next(self.methods(of.of, name), None)
        return None

    def methods(self, of: Class, name: str, *, above: bool = False) -> Iterator[Definition]:
        """The method of that name of the nearest class; ``above``: that of a base class."""
        for one in self.lineage(of)[above:]:
            if name in one.scope.functions:
                yield self._method(one, name)
                return

    def field(self, of: Class, name: str) -> Definition | None:
        """A field of a class: a member of an Enum, an attribute, one of a dataclass."""
        for one in self.lineage(of):
            scope = one.scope
            bare = [scope.bare[name]] if name in scope.bare else []
            if nodes := scope.values.get(name, bare):
                return self._part(one, name, nodes)
        return None

    def overrides(self, of: Class, name: str) -> Iterator[Definition]:
        """The methods of that name of classes that may stand for this one."""
        for module_name in self._overriding:
            module = self.source.module(module_name)
            for node in module.scope.classes.values() if module else ():
                assert module is not None
                one = self._class(module, node)
                if name in one.scope.functions and any(of is base for base in self.lineage(one)):
                    yield self._method(one, name)

    def lineage(self, of: Class) -> list[Class]:
        """A class and those it derives from, the nearest first."""
        if of not in self._lineages:
            self._lineages[of] = [of]  # for bases that lead back to it
            found: list[Class] = []
            waiting = [of]
            while waiting:
                one = waiting.pop(0)
                if one not in found:
                    found.append(one)
                    bases = (self.expression(one.module, base) for base in one.node.bases)
                    waiting += [base for base in bases if isinstance(base, Class)]
            self._lineages[of] = found
        return self._lineages[of]

    def expression(self, module: Module, node: ast.expr) -> Found | None:
        """What a name with attributes stands for at the top of a module."""
        match node:
            case ast.Name(id=name):
                return self._in_module(module, name, ())
            case ast.Attribute(value=value, attr=name):
                base = self.expression(module, value)
                return None if base is None else self.member(base, name)
            case ast.Constant(value=str(text)):
                try:
                    return self.expression(module, ast.parse(text, mode="eval").body)
                except SyntaxError:
                    return None
            case ast.Subscript(value=value):
                return self.expression(module, value)
        return None

    def annotated(self, module: Module, annotation: ast.expr | None) -> Class | None:
        """The class of what is annotated, also where it may be None or another."""
        match annotation:
            case None:
                return None
            case ast.BinOp(left=left, right=right):
                return self.annotated(module, left) or self.annotated(module, right)
            case ast.Subscript(value=ast.Name(id="Optional" | "type"), slice=inner):
                return self.annotated(module, inner)
        found = self.expression(module, annotation)
        return found if isinstance(found, Class) else None

    def imported(self, target: tuple[str, str | None], seen: tuple[str, ...] = ()) -> Found | None:
        """What an import binds."""
        module_name, name = target
        module = self.source.module(module_name)
        if name is None:
            return module
        if module is not None and (found := self._in_module(module, name, seen)) is not None:
            return found
        return self.source.module(f"{module_name}.{name}")

    def _in_module(self, module: Module, name: str, seen: tuple[str, ...]) -> Found | None:
        key = f"{module.name}:{name}"
        if key in seen:
            return None
        scope = module.scope
        if name in scope.classes:
            return self._class(module, scope.classes[name])
        if name in scope.functions:
            return self._definition(module, name, scope.functions[name])
        if name in scope.values:
            return self._definition(module, name, scope.values[name])
        if name in scope.imported:
            return self.imported(scope.imported[name], (*seen, key))
        if name in scope.declared and key not in self._declaring:
            self._declaring.add(key)
            found = self.annotated(module, scope.declared[name])
            self._declaring.discard(key)
            return None if found is None else Instance(found)
        return self.source.module(key.replace(":", "."))

    def _class(self, module: Module, node: ast.ClassDef) -> Class:
        found = self._known.setdefault((module.name, node.name), Class(module, node))
        assert isinstance(found, Class)
        return found

    def _definition(self, module: Module, name: str, nodes: Sequence[ast.AST]) -> Definition:
        found = self._known.setdefault((module.name, name), Definition(module, name, nodes))
        assert isinstance(found, Definition)
        return found

    def _method(self, of: Class, name: str) -> Definition:
        return self._part(of, name, of.scope.functions[name])

    def _part(self, of: Class, name: str, nodes: Sequence[ast.AST]) -> Definition:
        qualified = f"{of.node.name}.{name}"
        made = Definition(of.module, qualified, nodes, of)
        found = self._known.setdefault((of.module.name, qualified), made)
        assert isinstance(found, Definition)
        return found


def function_of(definition: Definition) -> Function | None:
    """The function that a definition is."""
    node = definition.nodes[0]
    return node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
