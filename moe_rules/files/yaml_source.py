"""YAML with positions: reads a file into plain values and remembers where each one stands.

Only what the rule files need of YAML 1.2: mappings with unique text keys, sequences and scalars.
Anchors are allowed, but a document that grows through them beyond :data:`MAX_NODES` is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from moe_rules.files.problems import KeyPath, Location, Problem, RuleFileError

MAX_BYTES = 4 * 1024 * 1024
MAX_NODES = 50_000
MAX_DEPTH = 100
_INTEGER = re.compile(r"[+-]?[0-9]{1,640}")
"""What Python reads however it is set up; text with more digits stays text."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class YamlSource:
    """A document as plain ``data``, with the place of every value and key by its path in it."""

    file: str
    data: Any
    places: dict[KeyPath, Location] = field(default_factory=dict)

    def at(self, path: KeyPath) -> Location:
        """The place of the value at ``path``, or of the nearest value around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Location(self.file))

    def key_at(self, path: KeyPath) -> Location:
        """The place of the key that names the value at ``path`` (for a list item, the item)."""
        return self.places.get((*path, KEY), self.at(path))


KEY = "\0key"
"""Last component of the path under which the place of a key is kept."""


def read_yaml(path: Path | str, *, display: str | None = None) -> YamlSource:
    """Read one YAML document.

    Raises :class:`RuleFileError` with the place of everything that is wrong: unreadable, a
    directory, not UTF-8, not YAML, empty, several documents, duplicate keys, too large.
    """
    file = display or str(path)
    try:
        raw = Path(path).read_bytes()
    except IsADirectoryError:
        raise _error(
            "not-a-file", f"{file} is a directory, a YAML file was expected", file
        ) from None
    except FileNotFoundError:
        raise _error("no-such-file", f"there is no file {file}", file) from None
    except PermissionError:
        raise _error("no-permission", f"no permission to read {file}", file) from None
    except OSError as error:
        raise _error("unreadable", f"cannot read {file}: {error.strerror}", file) from None
    if len(raw) > MAX_BYTES:
        raise _error(
            "too-large", f"{file} has {len(raw)} bytes; at most {MAX_BYTES} are read", file
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _error(
            "not-utf8",
            f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8",
            file,
            line,
        ) from None
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str) -> YamlSource:
    """Parse YAML text as :func:`read_yaml` does; ``file`` is what locations name."""
    try:
        _check_depth(text, file)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in (error.problem or ""):
            # libyaml has a limit of its own, and reads ahead of the events that are counted here.
            raise _too_deep(
                file, error.problem_mark.line + 1 if error.problem_mark else 0
            ) from None
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        message = " ".join(part for part in (error.context, error.problem) if part)
        raise _error("not-yaml", f"not YAML: {message}", file, line, column) from None
    except yaml.YAMLError as error:
        raise _error("not-yaml", f"not YAML: {error}", file) from None
    if node is None:
        raise _error("empty", f"{file} is empty", file)
    reader = _Reader(file)
    data = reader.value(node, (), 0)
    if reader.problems:
        raise RuleFileError(reader.problems)
    return YamlSource(file, data, reader.places)


def _too_deep(file: str, line: int = 0) -> RuleFileError:
    return _error("too-deep", f"nested deeper than {MAX_DEPTH} levels", file, line)


def _check_depth(text: str, file: str) -> None:
    """Refuse deep nesting before nodes are composed, which libyaml does by recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise _too_deep(file, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Turns a node tree into plain values, collecting places and problems."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[KeyPath, Location] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def place(self, node: yaml.Node) -> Location:
        return Location(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def value(self, node: yaml.Node, path: KeyPath, depth: int) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise _error(
                "yaml-bomb",
                f"the document expands to more than {MAX_NODES} values through its aliases",
                self.file,
            )
        if depth > MAX_DEPTH:
            raise _too_deep(self.file)
        self.places[path] = self.place(node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem("bad-key", "a key must be a word", key_node)
                continue
            key = key_node.value
            if key == "<<":
                merged.append(value_node)
                continue
            if key in result:
                first = self.places[(*path, key, KEY)]
                self.problem(
                    "duplicate-key",
                    f"duplicate key {key!r}; it stands first at line {first.line}",
                    key_node,
                )
                continue
            self.places[(*path, key, KEY)] = self.place(key_node)
            result[key] = self.value(value_node, (*path, key), depth + 1)
        for merged_node in merged:
            self.merge(merged_node, path, depth, result)
        return result

    def merge(self, node: yaml.Node, path: KeyPath, depth: int, result: dict[str, Any]) -> None:
        """Add the keys of an anchored mapping (``<<: *name``) that are not given themselves."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                self.problem("bad-merge", "<< takes a mapping or a list of mappings", node)
                continue
            kept = {
                place: self.places[place] for place in self.places if place[: len(path)] == path
            }
            for key, value in self.mapping(source, path, depth + 1).items():
                result.setdefault(key, value)
            self.places.update(kept)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        # YAML 1.1 reads on, off, yes and no as booleans and 1_0 as ten; YAML 1.2 does not.
        kind, text = node.tag.rsplit(":", 1)[-1], node.value
        if kind == "bool":
            return {"true": True, "false": False}.get(text.lower(), text)
        if kind == "null":
            return None
        if kind == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if kind == "float":
            try:
                return float(text)
            except ValueError:
                return text
        if kind not in ("int", "float", "str", "timestamp"):
            self.problem("bad-tag", f"tag {node.tag} is not read", node)
        return text

    def problem(self, code: str, message: str, node: yaml.Node) -> None:
        self.problems.append(Problem(code, message, self.place(node)))


def _error(code: str, message: str, file: str, line: int = 0, column: int = 0) -> RuleFileError:
    return RuleFileError([Problem(code, message, Location(file, line, column))])
