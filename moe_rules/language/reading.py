"""Reads rule files and links them: YAML, its validation by pydantic, and the resolving of names."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import Problem, RuleFileError
from moe_rules.files.yaml_source import YamlSource, read_yaml
from moe_rules.language.files import PlatformFile, VocabularyFile
from moe_rules.language.link import link
from moe_rules.language.parts import Part
from moe_rules.language.rules import PlatformRules
from moe_rules.language.validate import validate


@functools.cache
def _vocabulary(path: Path) -> tuple[YamlSource, VocabularyFile]:
    source = read_yaml(path)
    return source, validate(VocabularyFile, source)


def vocabulary() -> VocabularyFile:
    """Read the packaged vocabulary: sets, features and derived facts."""
    return _vocabulary(packaged_rules() / "vocabulary.yaml")[1]


def linked(
    platform: str, packaged: Sequence[Path], overlays: Sequence[Path], words: Path
) -> PlatformRules:
    """The rules of one platform from packaged files and files of overlays.

    ``words`` is the vocabulary's file. Files of overlays may be of other platforms. Raises
    RuleFileError with every problem of every file.
    """
    parts: list[Part] = []
    problems: list[Problem] = []
    contents: list[bytes] = []
    for path, is_overlay in [(p, False) for p in packaged] + [(p, True) for p in overlays]:
        try:
            source = read_yaml(path)
            file = validate(PlatformFile, source)
        except RuleFileError as error:
            problems.extend(error.problems)
            continue
        if file.platform == platform:
            parts.append(Part(source, file, is_overlay))
            contents.append(path.read_bytes())
        elif not is_overlay:
            message = f"file of platform {platform!r} says 'platform: {file.platform}'"
            problems.append(Problem("wrong-platform", message, source.at(("platform",))))
    if problems:
        raise RuleFileError(problems)
    vocabulary_source, vocabulary_file = _vocabulary(words)
    contents.append(words.read_bytes())
    return link(platform, parts, vocabulary_file, vocabulary_source, contents)
