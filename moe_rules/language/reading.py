"""Reads rule files and links them: YAML, its validation by pydantic, and the resolving of names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from moe_rules.files.packaged import SHARED, packaged_rules
from moe_rules.files.problems import Problem, RuleFileError
from moe_rules.files.validate import validate
from moe_rules.files.yaml_source import YamlSource, read_yaml
from moe_rules.language.files import PlatformFile
from moe_rules.language.kinds import kind_of, misplaced
from moe_rules.language.link import link
from moe_rules.language.parts import Part
from moe_rules.language.rules import PlatformRules
from moe_rules.language.word_files import VocabularyFile
from moe_rules.language.words import Words


def _vocabulary(path: Path) -> tuple[YamlSource, VocabularyFile]:
    source = read_yaml(path)
    return source, validate(VocabularyFile, source)


def vocabulary(files: Sequence[Path] = ()) -> Words:
    """The words of vocabulary files, of the packaged one if none are given."""
    return Words([_vocabulary(path) for path in files or [packaged_rules() / "vocabulary.yaml"]])


def displaced(platform: str, source: YamlSource, file: PlatformFile) -> Iterator[Problem]:
    """The finding of a file that lies among those of one platform and is not of that one alone."""
    if file.platforms != [platform]:
        said = ", ".join(file.platforms)
        message = f"this is a file of {platform} by its place, and says 'platform: {said}'"
        message += f"; what several platforms share lies in the folder {SHARED!r}"
        yield Problem("wrong-platform", message, source.at(("platform",)))


def linked(
    platform: str,
    own: Sequence[Path],
    shared: Sequence[Path],
    overlays: Sequence[Path],
    words: Sequence[Path],
    named: Collection[Path] = (),
) -> PlatformRules:
    """The rules of one platform from packaged files, its own and shared ones, and overlays.

    ``words`` are the files of the vocabulary. Shared files and those of overlays may be of other
    platforms; those of overlays may be recorded machines, but for those that were ``named``.
    Raises RuleFileError with every problem of every file.
    """
    parts: list[Part] = []
    problems: list[Problem] = []
    contents: list[bytes] = []
    for path, is_overlay in [(p, False) for p in (*own, *shared)] + [(p, True) for p in overlays]:
        try:
            source = read_yaml(path)
            if is_overlay and path not in named:
                found = list(misplaced(source))
                problems += found
                if found or kind_of(source.data) == "machine":
                    continue
            file = validate(PlatformFile, source)
        except RuleFileError as error:
            problems.extend(error.problems)
            continue
        if not is_overlay and path in own:
            problems += displaced(platform, source, file)
        if platform in file.platforms:
            parts.append(Part(source, file, is_overlay))
            contents.append((b"overlay:" if is_overlay else b"") + path.read_bytes())
    if problems:
        raise RuleFileError(problems)
    contents.extend(path.read_bytes() for path in words)
    return link(platform, parts, [_vocabulary(path) for path in words], contents)
