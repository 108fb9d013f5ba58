"""Installed packages, read from their files: nothing is imported to see what it offers.

Python modules are parsed, not run, so an answer about a name can be "only under a condition"
or "cannot be told". Compiled operators are looked up as the text under which their library
registers them.
"""

from __future__ import annotations

import ast
import functools
import mmap
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from moe_rules.machines.detection.system import System


class Presence(Enum):
    """Whether a module has a name, as far as its source tells."""

    ALWAYS = "always"
    CONDITIONAL = "under a condition"
    NEVER = "never"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Names:
    """The names a module binds at its top level; ``open`` if its source does not show all."""

    always: frozenset[str]
    conditional: frozenset[str]
    open: bool


class Packages:
    """The packages of one :class:`System`; every file is read at most once."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._tree = functools.cache(self._parse)
        self.folder = functools.cache(self._find_folder)

    def _find_folder(self, package: str) -> Path | None:
        """The folder of a top-level package, or None if it is not installed.

        A folder without ``__init__`` on the path is not taken for the package of that name.
        """
        try:
            spec = self._system.find_spec(package)
        except (ImportError, ValueError):
            return None
        if spec is None or not spec.origin or not spec.submodule_search_locations:
            return None
        return Path(next(iter(spec.submodule_search_locations)))

    def source(self, module: str) -> Path | None:
        """The source file of a dotted module, or None if there is none."""
        package, *rest = module.split(".")
        folder = self.folder(package)
        if folder is None:
            return None
        path = folder.joinpath(*rest)
        candidates = [path / "__init__.py", path.with_name(f"{path.name}.py")]
        return next((file for file in candidates[: 2 if rest else 1] if file.is_file()), None)

    def presence(self, module: str, name: str) -> Presence:
        """Whether ``module`` binds ``name`` at its top level. No such module: never."""
        tree = self._tree(module)
        if tree is None:
            return Presence.NEVER if self.source(module) is None else Presence.UNKNOWN
        names = _names(tree)
        if name in names.always:
            return Presence.ALWAYS
        if name in names.conditional:
            return Presence.CONDITIONAL
        return Presence.UNKNOWN if names.open else Presence.NEVER

    def constant(self, module: str, name: str) -> object:
        """The literal that ``module`` assigns to ``name``; None if it does not."""
        for node in getattr(self._tree(module), "body", ()):
            match node:
                case ast.Assign(targets=[ast.Name(id=target)], value=ast.Constant(value=value)):
                    pass
                case ast.AnnAssign(target=ast.Name(id=target), value=ast.Constant(value=value)):
                    pass
                case _:
                    continue
            if target == name:
                return value
        return None

    def has_parameter(self, module: str, function: str, parameter: str) -> bool | None:
        """Whether ``function`` of ``module`` takes ``parameter``; None if that cannot be told."""
        tree = self._tree(module)
        definitions = [
            node
            for node in getattr(tree, "body", ())
            if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        if len(definitions) != 1 or definitions[0].decorator_list:
            return None
        arguments = definitions[0].args
        named = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        return parameter in {argument.arg for argument in named}

    def class_attribute(self, module: str, name: str, attribute: str) -> bool | None:
        """Whether class ``name``, defined in or imported into ``module``, assigns ``attribute``.

        None if that cannot be told; imports are followed inside the package.
        """
        for _ in range(4):
            tree = self._tree(module)
            imported = None
            for node in getattr(tree, "body", ()):
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return attribute in _names(ast.Module(node.body, [])).always
                if isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        if (alias.asname or alias.name) == name:
                            imported = (self._absolute(module, node), alias.name)
            if imported is None:
                return None
            module, name = imported
        return None

    def registers(self, package: str, library: str, operator: str) -> bool:
        """Whether a compiled library of ``package`` (a glob) registers ``operator`` with torch."""
        folder = self.folder(package)
        libraries = sorted(folder.glob(library)) if folder else []
        return any(_mentions(path, operator.encode()) for path in libraries)

    def _parse(self, module: str) -> ast.Module | None:
        path = self.source(module)
        if path is None:
            return None
        try:
            return ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return None

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        source = self.source(module)
        is_package = source is not None and source.name == "__init__.py"
        parts = module.split(".")
        parents = parts[: len(parts) - node.level + is_package]
        return ".".join((*parents, *filter(None, [node.module])))


def _names(tree: ast.Module) -> _Names:
    always: set[str] = set()
    conditional: set[str] = set()
    is_open = False
    pending: list[tuple[ast.stmt, set[str]]] = [(node, always) for node in tree.body]
    while pending:
        node, names = pending.pop()
        match node:
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name.split(".")[0] for alias in aliases}
                is_open |= any(alias.name == "*" for alias in aliases)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
                is_open |= name == "__getattr__"
            case ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                names.add(name)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                pending += [(child, conditional) for child in node.orelse]
            case ast.If() | ast.Try() | ast.With() | ast.For() | ast.While():
                children = list(ast.iter_child_nodes(node))
                for handler in getattr(node, "handlers", ()):
                    children += handler.body
                pending += [(c, conditional) for c in children if isinstance(c, ast.stmt)]
    return _Names(frozenset(always), frozenset(conditional - always), is_open)


def _mentions(path: Path, operator: bytes) -> bool:
    """Whether a binary holds ``operator`` as a schema ("name(...) -> ...") or as a whole name."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.find(operator)
            while at >= 0:
                if data[at + len(operator) : at + len(operator) + 1] in (b"(", b"\0"):
                    return True
                at = data.find(operator, at + 1)
    except (OSError, ValueError):  # unreadable, or empty
        return False
    return False
