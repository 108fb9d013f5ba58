"""Which statements of vLLM's selection were executed, and which were not, by line.

What belongs to selection is read off vLLM's source: the select functions, and whatever they call,
by its name, in the files that are measured. A name may mean several functions; all of them count.
Only places are reported, never source.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_rules.reporting.markdown import table
from tools.record.places import LAYER_CLASSES, MEASURED, PROBES, SELECTS

_SIMULATED = frozenset(place.partition(":")[2] for one in PROBES.values() for place in one)
"""Functions in place of which the simulation answers."""

_ONLY_NAMES = frozenset(dir(dict)) | frozenset(dir(list)) | frozenset(dir(str))
"""Methods of Python's own types, which are called everywhere."""


@dataclass(frozen=True)
class Function:
    """A function of vLLM's selection: its file below the package, and its statements.

    ``statements`` are pairs of the first and the last line of a statement, or of its head where it
    holds others.
    """

    file: str
    name: str
    line: int
    statements: tuple[tuple[int, int], ...]

    def missed(self, lines: frozenset[int]) -> list[int]:
        """The first lines of the statements none of whose lines were executed."""
        return [
            first for first, last in self.statements if lines.isdisjoint(range(first, last + 1))
        ]


def measured_sources(package: Path) -> dict[str, str]:
    """The source of the files that are measured, by their path below vLLM's package."""
    paths = {path for pattern in MEASURED for path in package.glob(pattern)}
    return {str(path.relative_to(package)): path.read_text() for path in sorted(paths)}


def selection(sources: Mapping[str, str]) -> list[Function]:
    """The functions of selection in some files, by file and line."""
    defined: dict[str, list[tuple[str, str, ast.FunctionDef]]] = defaultdict(list)
    for file, source in sources.items():
        for name, node in _functions(ast.parse(source), ""):
            for known_as in {node.name, *_as_property(name)}:
                defined[known_as].append((file, name, node))
    todo = [name for name in defined if re.fullmatch(SELECTS, name)]
    reached = set(todo)
    while todo:
        for _, _, node in defined[todo.pop()]:
            new = {name for name in _used(node) if name in defined and name not in reached}
            reached |= new
            todo += new
    found = {
        Function(file, name, node.lineno, tuple(_statements(node.body)))
        for known_as in reached
        for file, name, node in defined[known_as]
        if node.name not in _SIMULATED and not _is_abstract(node)
    }
    return sorted((f for f in found if f.statements), key=lambda f: (f.file, f.line))


def _is_abstract(node: ast.FunctionDef) -> bool:
    """All that the function does is to say that it is not implemented."""
    match [n for n in node.body if not isinstance(n, ast.Expr)]:
        case [ast.Raise(exc=ast.Name(id=name) | ast.Call(func=ast.Name(id=name)))]:
            return name == "NotImplementedError"
    return False


def _as_property(name: str) -> list[str]:
    """What reading an attribute of a layer is called here, for its functions."""
    owner, _, attribute = name.rpartition(".")
    return [f".{attribute}"] if owner in LAYER_CLASSES else []


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try):
            yield from _functions(child, prefix)


def _used(function: ast.FunctionDef) -> Iterator[str]:
    """The names of functions that a function calls, and of attributes that it reads."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            name = _called(node.func)
            if name not in _ONLY_NAMES:
                yield name
        elif isinstance(node, ast.Attribute):
            yield f".{node.attr}"


def _called(function: ast.expr) -> str:
    match function:
        case ast.Name():
            return function.id
        case ast.Attribute():
            return function.attr
    return ""


def _statements(body: Iterable[ast.stmt]) -> Iterator[tuple[int, int]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _statements(node.body)
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.Pass | ast.Import | ast.ImportFrom | ast.Try | ast.Global):
            pass  # what is executed there tells nothing of its own
        else:
            inner = [n.lineno for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
            last = min(inner) - 1 if inner else node.end_lineno or node.lineno
            yield node.lineno, max(last, node.lineno)
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, name, ()))
        for handler in getattr(node, "handlers", ()):
            yield from _statements(handler.body)
        for case in getattr(node, "cases", ()):
            yield from _statements(case.body)


def merged(executed: Iterable[Mapping[str, Iterable[int]]]) -> dict[str, frozenset[int]]:
    """The lines that were executed on some machine, by file."""
    lines: dict[str, set[int]] = defaultdict(set)
    for one in executed:
        for file, numbers in one.items():
            lines[file].update(numbers)
    return {file: frozenset(numbers) for file, numbers in lines.items()}


Kernels = Mapping[str, Mapping[str, int]]
"""How often each kernel class "supports" or "refuses" what it was asked."""


def report(
    functions: Iterable[Function],
    executed: Mapping[str, frozenset[int]],
    release: str,
    kernels: Iterable[Kernels] = (),
) -> dict[str, Any]:
    """How much of each function was executed, the lines that were not, and what kernels answered.

    ``kernels`` are the answers on each machine, which are added up.
    """
    rows: list[dict[str, Any]] = []
    nowhere: frozenset[int] = frozenset()
    for function in functions:
        place = {"file": function.file, "function": function.name, "line": function.line}
        missed = function.missed(executed.get(function.file, nowhere))
        rows.append({**place, "statements": len(function.statements), "missed": missed})
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for one in kernels:
        for name, counts in one.items():
            answers[name].update(counts)
    said = {name: dict(counts) for name, counts in sorted(answers.items())}
    return {"release": release, "functions": rows, "kernels": said}


def summary(data: Mapping[str, Any]) -> str:
    """How much was executed, in one line."""
    rows = data["functions"]
    statements = sum(row["statements"] for row in rows)
    missed = sum(len(row["missed"]) for row in rows)
    return (
        f"executed {statements - missed} of {statements} statements of selection "
        f"({_percent(missed, statements)}), in {len(rows)} functions"
    )


def markdown(data: Mapping[str, Any]) -> str:
    """The report for people: every file, question and kernel, and every line missed."""
    rows = data["functions"]
    lines = [f"# vLLM {data['release']}: what a recording executed", "", summary(data), ""]
    for title, key in (("file", "file"), ("method or function", "function")):
        sums = [
            [name, str(all_), _percent(not_, all_), str(not_)]
            for name, (all_, not_) in _sums(rows, key).items()
        ]
        lines += [table([title, "statements", "executed", "missed"], sums), ""]
    kernels = [
        [name, str(said.get("supports", 0)), str(said.get("refuses", 0))]
        for name, said in data["kernels"].items()
    ]
    lines += [table(["kernel", "supports", "refuses"], kernels), ""]
    lines += ["## Lines that were not executed", ""]
    for row in rows:
        if row["missed"]:
            numbers = ", ".join(map(str, row["missed"]))
            lines.append(f"- `{row['file']}` {row['function']}: {numbers}")
    return "\n".join(lines) + "\n"


def _sums(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, tuple[int, int]]:
    """Statements, and those missed, by file or by the name of a function without its class."""
    sums: dict[str, tuple[int, int]] = {}
    for row in rows:
        name = row[key].rpartition(".")[2] if key == "function" else row[key]
        statements, missed = sums.get(name, (0, 0))
        sums[name] = (statements + row["statements"], missed + len(row["missed"]))
    return dict(sorted(sums.items()))


def _percent(missed: int, of: int) -> str:
    return f"{100 * (1 - missed / of):.2f} %" if of else "-"
