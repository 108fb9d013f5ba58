"""Writes vllm_registry.json: what the model classes of a vLLM release do about MoE layers.

    python registry_of_wheel.py FOLDER_OF_THE_UNPACKED_WHEEL

Nothing of vLLM is imported. From every name in the registry the classes and functions that its
class refers to are followed through the source, and the calls among them are what it ``does``:
``moe`` builds layers that ask an oracle, ``fused_experts`` calls kernels without one, ``wraps``
builds a language model of whatever architecture its configuration names.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

CALLS = {
    "FusedMoEFactory": "moe",
    "fused_experts": "fused_experts",
    "init_vllm_registered_model": "wraps",
}
"""Functions of vLLM whose calls tell what a class does."""

MODELS = "vllm.model_executor.models"
FOLLOWED = (MODELS, "vllm.models")
"""Packages in which references are followed."""


class Source:
    """The modules of one unpacked wheel."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.module = cache(self._module)

    def path(self, name: str) -> Path | None:
        """A module's file, or its package's."""
        base = self.root.joinpath(*name.split("."))
        found = (base.with_suffix(".py"), base / "__init__.py")
        return next((path for path in found if path.is_file()), None)

    def _module(self, name: str) -> tuple[dict[str, ast.AST], dict[str, tuple[str, str]]]:
        """Definitions of a module by name, and its imports as (module, name)."""
        path = self.path(name)
        if path is None:
            return {}, {}
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        definitions: dict[str, ast.AST] = {}
        imports: dict[str, tuple[str, str]] = {}
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                start = package.split(".")[: len(package.split(".")) + 1 - node.level]
                base = (
                    ".".join([*start, *filter(None, [node.module])]) if node.level else node.module
                )
                for alias in node.names:
                    imports.setdefault(alias.asname or alias.name, (base or "", alias.name))
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                definitions[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                definitions[node.targets[0].id] = node
        return definitions, imports

    def does(self, module: str, name: str) -> list[str]:
        """What a definition, and all that it refers to, calls."""
        todo, seen, found = [(module, name)], set(), set()
        while todo:
            here, wanted = todo.pop()
            if (here, wanted) in seen:
                continue
            seen.add((here, wanted))
            definitions, imports = self.module(here)
            if wanted in definitions:
                found |= _calls(definitions[wanted])
                todo += [(here, other) for other in _names(definitions[wanted])]
            elif wanted in imports and imports[wanted][0].startswith(FOLLOWED):
                todo.append(imports[wanted])
        return sorted(found)


@cache
def _calls(node: ast.AST) -> frozenset[str]:
    functions = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    names = {getattr(one, "id", None) or getattr(one, "attr", None) for one in functions}
    return frozenset(CALLS[name] for name in names if name in CALLS)


@cache
def _names(node: ast.AST) -> frozenset[str]:
    return frozenset(part.id for part in ast.walk(node) if isinstance(part, ast.Name))


def _entries(table: ast.expr) -> Iterator[tuple[str, object]]:
    """The entries of a table in source. What it says of every Llama-like name, it says of them."""
    assert isinstance(table, ast.Dict)
    for key, value in zip(table.keys, table.values, strict=True):
        if key is not None:
            yield ast.literal_eval(key), ast.literal_eval(value)


def registry(source: Source) -> dict[str, object]:
    """Names of the registry with module, class and what the class does; names no longer there."""
    definitions, _ = source.module(f"{MODELS}.registry")
    models: dict[str, object] = {}
    tables = [name for name in definitions if name.endswith("_MODELS") and name != "_VLLM_MODELS"]
    gone: dict[str, object] = {}
    for table in tables:
        node = definitions[table]
        assert isinstance(node, ast.Assign)
        for name, value in _entries(node.value):
            if not isinstance(value, tuple):
                gone[name] = value
                continue
            where, class_name = value
            module = where if "." in where else f"{MODELS}.{where}"
            if not where.startswith("vllm."):
                module = f"{MODELS}.{where}"
            models[name] = {
                "table": table.strip("_").removesuffix("_MODELS").lower(),
                "module": module,
                "class": class_name,
                "does": source.does(module, class_name),
            }
    return {"models": models, "gone": gone}


if __name__ == "__main__":
    data = registry(Source(Path(sys.argv[1])))
    path = Path(__file__).with_name("vllm_registry.json")
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
