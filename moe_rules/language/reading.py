"""Reads rule files and links them: YAML, its validation by pydantic, and the resolving of names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from moe_rules.files.packaged import packaged_rules
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


def linked(
    platform: str,
    packaged: Sequence[Path],
    overlays: Sequence[Path],
    words: Sequence[Path],
    named: Collection[Path] = (),
) -> PlatformRules:
    """The rules of one platform from packaged files and files of overlays.

    ``words`` are the files of the vocabulary. Files of overlays may be of other platforms, and
    recorded machines, but for those that were ``named``. Raises RuleFileError with every problem of
    every file.
    """
    parts: list[Part] = []
    problems: list[Problem] = []
    contents: list[bytes] = []
    for path, is_overlay in [(p, False) for p in packaged] + [(p, True) for p in overlays]:
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
        if file.platform == platform:
            parts.append(Part(source, file, is_overlay))
            contents.append((b"overlay:" if is_overlay else b"") + path.read_bytes())
        elif not is_overlay:
            message = f"file of platform {platform!r} says 'platform: {file.platform}'"
            problems.append(Problem("wrong-platform", message, source.at(("platform",))))
    if problems:
        raise RuleFileError(problems)
    contents.extend(path.read_bytes() for path in words)
    return link(platform, parts, [_vocabulary(path) for path in words], contents)
