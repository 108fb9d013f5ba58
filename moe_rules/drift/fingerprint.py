"""A fingerprint of code, which is the same where only its looks differ.

Made from the syntax tree, so that comments and formatting do not count. Docstrings, annotations,
imports and what is logged are left out as well: none of them decides anything. It is the same in
every version of Python that reads the code.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from hashlib import sha256

LENGTH = 12
"""Hexadecimal digits: enough for thousands of definitions, and readable in a difference."""
_LEFT_OUT = frozenset({"annotation", "ctx", "kind", "returns", "type_comment", "type_params"})
LOGGER = "logger"


def fingerprint(nodes: Iterable[ast.AST]) -> str:
    """The fingerprint of one or several pieces of code, in their order."""
    digest = sha256()
    for node in nodes:
        for word in _words(node):
            digest.update(word.encode(errors="surrogatepass"))
            digest.update(b"\0")
    return digest.hexdigest()[:LENGTH]


def _words(value: object) -> Iterator[str]:
    match value:
        case ast.AST():
            yield type(value).__name__
            for name, part in ast.iter_fields(value):
                if name == "body" and isinstance(part, list):
                    part = [one for one in part if not is_silent(one)]
                if name not in _LEFT_OUT and part not in (None, []):
                    yield name
                    yield from _words(part)
            yield ")"
        case list():
            for one in value:
                yield from _words(one)
        case _:
            yield repr(value)


def is_silent(statement: ast.AST) -> bool:
    """Whether a statement decides nothing: a docstring, an import, something that is logged."""
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.Pass():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            return name == LOGGER
    return False
