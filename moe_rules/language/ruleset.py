"""Finds and loads rule files: the packaged tables, and overlays on top of them.

The packaged files of a platform are ``rules/<platform>.yaml`` and ``rules/<platform>/*.yaml``.
An overlay is a folder (or one file) of rule files that add to the packaged ones, given by
argument or in ``MOE_RULES_PATH`` (separated as in ``PATH``, later ones win).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import Location, Problem, RuleFileError
from moe_rules.files.yaml_source import YamlSource, read_yaml
from moe_rules.language.files import PlatformFile, VocabularyFile
from moe_rules.language.link import link
from moe_rules.language.parts import Part
from moe_rules.language.rules import PlatformRules
from moe_rules.language.validate import validate
from moe_rules.vocabulary.fact_values import did_you_mean
from moe_rules.vocabulary.facts import FACTS

PLATFORMS = FACTS["device"].values
PATH_VARIABLE = "MOE_RULES_PATH"


def overlay_paths(extra: Sequence[str | Path] = ()) -> tuple[Path, ...]:
    """Overlays in the order in which they apply: those of ``MOE_RULES_PATH``, then ``extra``.

    A word that is no path names a packaged overlay (``rules/overlays/<name>``).
    Raises RuleFileError for one that does not exist.
    """
    words = [word for word in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if word]
    return tuple(overlay_path(str(word)) for word in [*words, *extra])


def overlay_path(word: str) -> Path:
    """The path, or the packaged overlay of that name. Raises RuleFileError if there is neither."""
    path = Path(word)
    if path.exists():
        return path
    overlays = packaged_rules() / "overlays"
    if (overlays / word).exists():
        return overlays / word
    names = [entry.name for entry in overlays.iterdir()] if overlays.is_dir() else []
    message = f"there is no overlay {word!r}{did_you_mean(word, names)}"
    raise RuleFileError([Problem("no-such-file", message, Location(word))])


def rule_files(path: Path) -> list[Path]:
    """All YAML files at ``path``: the file itself, or those below the folder, in order."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml") and p.is_file())


def platform_files(platform: str, folder: Path) -> list[Path]:
    """The packaged rule files of one platform."""
    single = folder / f"{platform}.yaml"
    several = sorted((folder / platform).glob("*.yaml"))
    return [single, *several] if single.is_file() else several


@functools.cache
def _vocabulary() -> tuple[YamlSource, VocabularyFile]:
    source = read_yaml(packaged_rules() / "vocabulary.yaml")
    return source, validate(VocabularyFile, source)


def vocabulary() -> VocabularyFile:
    """Load the packaged vocabulary: sets, features and derived facts."""
    return _vocabulary()[1]


def read_rule_file(path: Path) -> tuple[YamlSource, PlatformFile]:
    """Read one rule file. Raises RuleFileError with everything that is wrong in its shape."""
    source = read_yaml(path)
    return source, validate(PlatformFile, source)


def load_platform(
    platform: str, overlays: Sequence[Path] = (), *, packaged: Path | None = None
) -> PlatformRules:
    """Load the rules of one platform from the packaged tables and overlays.

    Raises RuleFileError with every problem of every file.
    """
    parts: list[Part] = []
    problems: list[Problem] = []
    files = [(path, False) for path in platform_files(platform, packaged or packaged_rules())]
    files += [(path, True) for overlay in overlays for path in rule_files(overlay)]
    contents: list[bytes] = []
    for path, is_overlay in files:
        try:
            source, file = read_rule_file(path)
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
    vocabulary_source, vocabulary_file = _vocabulary()
    contents.append((packaged_rules() / "vocabulary.yaml").read_bytes())
    return link(platform, parts, vocabulary_file, vocabulary_source, contents)
