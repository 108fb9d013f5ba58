"""Writes an adjustment of an order into an overlay, of which everything else stays as it is.

The lines of the entry are put where they belong; no other line of the file is written anew, so that
comments and layout are kept to the byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from moe_rules.cli.errors import UserError
from moe_rules.files.problems import Problem, RuleFileError
from moe_rules.vocabulary.record import Record

if TYPE_CHECKING:
    from moe_rules.language.rules import PlatformRules
    from moe_rules.vocabulary.fact_values import Fact

Place = Literal["first", "last", "before", "after"]
PLACES: tuple[Place, ...] = get_args(Place)
KEPT = ("name", "replaces", "quirk")
"""The keys of an adjustment that stay when it is changed."""
WIDTH = 100
_WORDS = re.compile(r"[\w$]([\w$./+*%() -]*[\w*%)])?", re.ASCII)
"""Words that stand for themselves in YAML, unless they are a number or the like."""
STEP = 2
"""Columns by which a block is indented."""


class Adjustment(Record):
    """Where a backend goes in the order, as an overlay says it; ``anchor`` is what it goes by."""

    backend: str
    place: Place
    anchor: str | None
    when: Mapping[str, Any]
    because: str
    evidence: tuple[Mapping[str, Any], ...] = ()

    def entry(self) -> dict[str, Any]:
        """The entry of the overlay."""
        entry: dict[str, Any] = {"when": dict(self.when)} if self.when else {}
        if self.anchor is None:
            entry[self.place] = [self.backend]
        else:
            entry |= {"move": self.backend, self.place: self.anchor}
        entry["because"] = self.because
        return {**entry, "evidence": list(self.evidence)} if self.evidence else entry

    def is_about(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry says where this backend goes under this condition, and no other's."""
        named = [entry[key] for key in ("first", "last", "move") if key in entry]
        same = named in ([self.backend], [[self.backend]])
        return same and (entry.get("when") or {}) == self.when


def file_of(overlay: Path, platform: str, oracle: str) -> Path:
    """The file of an overlay that an adjustment belongs into; it may not exist yet.

    That of the platform which speaks of the oracle, else the first of the platform.
    Raises RuleFileError for files that cannot be read.
    """
    from moe_rules.files.yaml_source import read_yaml
    from moe_rules.language.ruleset import rule_files

    if overlay.suffix in (".yaml", ".yml"):
        return overlay
    own = []
    for file in rule_files(overlay) if overlay.is_dir() else ():
        data = read_yaml(file).data
        if _is_of(data, platform):
            own.append((oracle not in (data.get("oracles") or ()), file))
    return min(own)[1] if own else overlay / f"{platform}.yaml"


class Edit(Record):
    """An overlay that gets an adjustment of an oracle, among the overlays that apply.

    ``root`` is the one of ``overlays`` that ``file`` is, or lies in.
    """

    platform: str
    oracle: str
    file: Path
    root: Path
    overlays: tuple[Path, ...]

    @classmethod
    def of(cls, into: Path, overlays: tuple[Path, ...], platform: str, oracle: str) -> Edit:
        """The edit of the overlay ``into``, which applies last where it is none of the others.

        Raises RuleFileError for files that cannot be read.
        """
        file = file_of(into, platform, oracle)
        inside = (one for one in overlays if file.resolve().is_relative_to(one.resolve()))
        root = next(inside, into)
        return cls(
            platform, oracle, file, root, overlays if root in overlays else (*overlays, root)
        )

    def rules(self, text: str | None = None) -> PlatformRules:
        """The rules that apply; with ``text`` in place of what the file says, if it is given.

        Raises RuleFileError.
        """
        from tempfile import TemporaryDirectory

        from moe_rules.language.ruleset import load_platform

        if text is None:
            return load_platform(self.platform, [one for one in self.overlays if one.exists()])
        with TemporaryDirectory() as folder:
            copy = self._copied(Path(folder), text)
            try:
                overlays = [copy if one == self.root else one for one in self.overlays]
                return load_platform(self.platform, overlays)
            except RuleFileError as error:
                raise RuleFileError([self._in_place(p, copy) for p in error.problems]) from None

    def _copied(self, folder: Path, text: str) -> Path:
        """A copy of the overlay in which the file has the text."""
        from moe_rules.language.ruleset import WORDS, rule_files

        copy = folder / self.root.name
        own = [*rule_files(self.root), self.root / WORDS]
        files = {file: file.read_bytes() for file in own if file.is_file()}
        for file, content in {**files, self.file: text.encode()}.items():
            target = copy / file.relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return copy

    def _in_place(self, problem: Problem, copy: Path) -> Problem:
        """A problem of the copy as one of the overlay."""
        place = problem.location
        file = place.file.replace(str(copy), str(self.root), 1)
        return problem.replaced(location=place.replaced(file=file))

    def text_with(self, adjustment: Adjustment) -> str:
        """The text of the file with the adjustment. Raises UserError, RuleFileError."""
        text = self.file.read_bytes().decode("utf-8-sig") if self.file.exists() else ""
        return edited(text, str(self.file), self.platform, self.oracle, adjustment)

    def write(self, text: str) -> None:
        """Write the file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(text.encode())


def edited(text: str, file: str, platform: str, oracle: str, adjustment: Adjustment) -> str:
    """The text of a rule file with the adjustment in it; of a new one where ``text`` is empty.

    An adjustment of the backend under the same condition is replaced, any other is added after the
    last. ``file`` is what errors call it. Raises RuleFileError for what is no YAML, UserError where
    adjustments do not stand in a block.
    """
    from moe_rules.files.yaml_source import parse_yaml

    if not text:
        return "\n".join([f"platform: {platform}", *_block(["oracles", oracle], adjustment), ""])
    data = parse_yaml(text, file).data
    if not _is_of(data, platform):
        raise UserError(f"{file} is no file of platform {platform} alone")
    document = _Document(text, file)
    below = ["oracles", oracle, "adjust"]
    here, missing = document.root, list(below)
    while missing and (inner := document.value(here, missing[0])) is not None:
        here = inner
        del missing[0]
    document.needs_block(here, below[: len(below) - len(missing)])
    if missing:
        column = document.column(here)
        lines = _block(missing[:-1], adjustment, column)
        return document.with_lines_after(here, lines)
    for item, entry in zip(here.value, data["oracles"][oracle]["adjust"], strict=True):
        if adjustment.is_about(entry):
            kept = {key: entry[key] for key in KEPT if key in entry}
            return document.replaced(item, _item({**kept, **adjustment.entry()}, 0))
    column = here.start_mark.column
    return document.with_lines_after(here, _item(adjustment.entry(), column))


def _is_of(data: Any, platform: str) -> bool:
    """Whether what a file says is of this platform, and of no other one as well."""
    return isinstance(data, Mapping) and data.get("platform") in (platform, [platform])


class _Document:
    """The text of a file with the nodes of its YAML."""

    def __init__(self, text: str, file: str) -> None:
        import yaml

        self.lines = text.splitlines()
        self.newline = "\r\n" if "\r\n" in text else "\n"
        self.file = file
        self.root: Any = yaml.compose(text, Loader=yaml.SafeLoader)

    def value(self, node: Any, key: str) -> Any:
        """The value of a key of a mapping; None where it is not there."""
        pairs = node.value if node.id == "mapping" else ()
        return next((value for name, value in pairs if name.value == key), None)

    def needs_block(self, node: Any, path: list[str]) -> None:
        """Raise UserError for a node to which no line can be added."""
        if node.id == "scalar" or node.flow_style or not node.value:
            name = ".".join(path) or "the file"
            raise UserError(
                f"{self.file}:{node.start_mark.line + 1}: {name} does not stand in a block, a line "
                "for each entry; write it so first"
            )

    def column(self, node: Any) -> int:
        """The column of a block mapping's keys."""
        return int(node.value[0][0].start_mark.column)

    def end(self, node: Any) -> tuple[int, int]:
        """How many lines there are up to the last one of a node, and how long it is that far.

        What stands below a node, or behind it, are comments.
        """
        while node.id != "scalar" and not node.flow_style and node.value:
            last = node.value[-1]
            node = last[1] if node.id == "mapping" else last
        if node.id != "scalar" or node.style not in ("|", ">"):
            return node.end_mark.line + 1, node.end_mark.column
        line = node.end_mark.line if node.end_mark.column == 0 else node.end_mark.line + 1
        while not self.lines[line - 1].strip():
            line -= 1
        return line, len(self.lines[line - 1])

    def with_lines_after(self, node: Any, lines: list[str]) -> str:
        """The text with further lines below a node."""
        after, _ = self.end(node)
        return self.newline.join([*self.lines[:after], *lines, *self.lines[after:], ""])

    def replaced(self, item: Any, lines: list[str]) -> str:
        """The text with an item of a list replaced; a comment behind it stays."""
        start, (end, length) = item.start_mark.line, self.end(item)
        before = self.lines[start][: item.start_mark.column]
        first, *more = [line[STEP:] for line in lines]
        new = [before + first, *(" " * item.start_mark.column + line for line in more)]
        new[-1] += self.lines[end - 1][length:]
        return self.newline.join([*self.lines[:start], *new, *self.lines[end:], ""])


# Text ---------------------------------------------------------------------------------------------


def _block(keys: list[str], adjustment: Adjustment, column: int = 0) -> list[str]:
    """The lines of mappings in each other, the innermost of which has the adjustment alone."""
    lines = []
    for key in [*keys, "adjust"]:
        lines.append(f"{' ' * column}{key}:")
        column += STEP
    return [*lines, *_item(adjustment.entry(), column)]


def _item(entry: Mapping[str, Any], column: int) -> list[str]:
    """The lines of an item of a list."""
    lines = [line for key, value in entry.items() for line in _pair(key, value, column + STEP)]
    dashed = f"{' ' * column}- {lines[0].lstrip()}"
    return [dashed, *lines[1:]]


def _pair(key: str, value: Any, column: int) -> Iterator[str]:
    """A key with its value: on one line if it fits, else with a line for each entry."""
    line = f"{' ' * column}{key}: {_flow(value)}"
    is_list = isinstance(value, list) and value and isinstance(value[0], Mapping)
    if is_list:
        yield f"{' ' * column}{key}:"
        yield from (f"{' ' * (column + STEP)}- {_flow(one)}" for one in value)
    elif isinstance(value, Mapping) and len(line) > WIDTH:
        yield f"{' ' * column}{key}:"
        for one in value.items():
            yield from _pair(*one, column + STEP)
    else:
        yield line


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return value if _is_plain(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _is_plain(text: str) -> bool:
    """Whether every reader of YAML reads the text as itself without quotes."""
    from moe_rules.files.yaml_source import parse_yaml

    return bool(_WORDS.fullmatch(text) and parse_yaml(text, "").data == text)


# What the command line says -----------------------------------------------------------------------


def conditions_of(words: list[str], facts: Mapping[str, Fact]) -> dict[str, Any]:
    """``FACT=VALUE``, several times, as a condition that a rule file would say.

    Raises UserError for what is no fact, or said twice.
    """
    from moe_rules.vocabulary.fact_values import did_you_mean

    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not (equals and name and value):
            raise UserError(f"--when {word}: write it as FACT=VALUE")
        if name != "is" and name not in facts:
            hint = did_you_mean(name, [*facts, "is"])
            raise UserError(f"--when {name}: there is no such fact{hint}")
        if name in found:
            raise UserError(f"--when {name} is given twice; write {name}=[A, B] for any of them")
        found[name] = _value(facts.get(name), value)
    return found


def _value(fact: Fact | None, text: str) -> Any:
    """What stands to the right of a fact: as in a rule file, a scalar by the fact's type."""
    from moe_rules.vocabulary.fact_values import integer

    if text[:1] in "[{":
        return as_in_a_file(text, "--when")
    if fact is not None and fact.type in ("bool", "switch") and text in ("true", "false"):
        return text == "true"
    number = integer(text) if fact is not None and fact.type == "int" else None
    return text if number is None else number


def as_in_a_file(text: str, option: str) -> Any:
    """A mapping or a list that is written as in a rule file. Raises UserError."""
    from moe_rules.files.yaml_source import parse_yaml

    try:
        return parse_yaml(text, option).data
    except RuleFileError as error:
        messages = [problem.message for problem in error.problems]
        raise UserError(f"{option} {text}: {'; '.join(messages)}") from None
