"""Finds and loads rule files: the packaged tables, and overlays on top of them.

The packaged files of a platform are ``rules/<platform>.yaml``, ``rules/<platform>/*.yaml`` and
those of ``rules/shared`` that name it.
An overlay is a folder (or one file) of rule files that add to the packaged ones, given by
argument or in ``MOE_RULES_PATH`` (separated as in ``PATH``, later ones win). An older release of
the reference is overlays, too, and they come first.

What :mod:`moe_rules.language.reading` makes of the files is stored, so that few processes read any.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from moe_rules.files.packaged import SHARED, packaged_rules
from moe_rules.files.present import is_present, yaml_files_below
from moe_rules.files.problems import Location, Problem, RuleFileError
from moe_rules.files.releases import MODELS, release_of
from moe_rules.files.stored import stored
from moe_rules.language.plain_form import from_plain, to_plain
from moe_rules.language.rules import PlatformRules
from moe_rules.vocabulary.fact_values import did_you_mean, parse_value
from moe_rules.vocabulary.facts import FACTS

PATH_VARIABLE = "MOE_RULES_PATH"
EXAMPLES, POLICIES = ".test", ".policy"
"""How the name of a file that holds examples, or policies, ends before ``.yaml``."""
VOCABULARY = "vocabulary.yaml"
"""The file that makes a folder a rule set: its sets, features and derived facts."""
WORDS = "words.yaml"
"""The file of an overlay that says otherwise what is in the vocabulary."""
ROOMS = ("files", "language", "vocabulary")
"""The packages whose code makes rules of files."""


def overlay_paths(extra: Sequence[str | Path] = (), release: str | None = None) -> tuple[Path, ...]:
    """Overlays in the order in which they apply: those of ``MOE_RULES_PATH``, then ``extra``.

    Those of ``release`` ("0.32") come before them. A word that is no path names a packaged overlay
    (``rules/overlays/<name>``). Raises RuleFileError for one, or a release, that does not exist,
    and for a folder without rules; TypeError for one overlay that is no list of them.
    """
    extra = _several(extra)
    words = [word for word in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if word]
    older = () if release is None else release_of(release).folders
    return (*older, *(with_rules(overlay_path(str(word))) for word in [*words, *extra]))


def _several(overlays: Iterable[str | Path]) -> tuple[str | Path, ...]:
    """Overlays, of which there is a list. Raises TypeError for one, and for what is none."""
    if isinstance(overlays, str | bytes | Path) or not isinstance(overlays, Iterable):
        example = [str(overlays)] if isinstance(overlays, str | Path) else ["mine"]
        raise TypeError(f"overlays come in a list, as {example}, got {overlays!r}")
    return tuple(overlays)


def with_rules(path: Path) -> Path:
    """The overlay itself. Raises RuleFileError for a folder without any rules."""
    others = is_present(path / WORDS) or (path / MODELS).exists()
    if path.is_dir() and not rule_files(path) and not others:
        message = f"the folder {path} has no rules"
        raise RuleFileError([Problem("no-rules", message, Location(str(path)))])
    return path


def overlay_path(word: str) -> Path:
    """The path, or the packaged overlay of that name. Raises RuleFileError if there is neither."""
    path = Path(word)
    if word and path.exists():  # an empty word would be the current folder
        return path
    overlays = packaged_rules() / "overlays"
    if word and (overlays / word).exists():
        return overlays / word
    names = [entry.name for entry in overlays.iterdir()] if overlays.is_dir() else []
    message = f"there is no overlay {word!r}{did_you_mean(word, names)}"
    raise RuleFileError([Problem("no-such-file", message, Location(word))])


def rule_files(path: Path) -> list[Path]:
    """All rule files at ``path``: the file itself, or those below the folder, in order.

    What is hidden in the folder is the business of other programs.
    """
    if not path.is_dir():
        return [path]
    files = yaml_files_below(path)
    inside = (f for f in files if f.relative_to(path).parts[0] not in (WORDS, MODELS))
    return [file for file in inside if holds_rules(file) and not is_hidden(file, path)]


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file below a folder is hidden, or lies in a folder there that is."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def holds_examples(path: Path) -> bool:
    """Whether a file holds examples beside rules (:mod:`moe_rules.language.examples`)."""
    return path.stem.endswith(EXAMPLES)


def holds_rules(path: Path) -> bool:
    """Whether a file holds rules, and not what stands beside them."""
    return not path.stem.endswith((EXAMPLES, POLICIES))


def platform_files(platform: str, folder: Path) -> list[Path]:
    """The packaged rule files of one platform alone."""
    single = folder / f"{platform}.yaml"
    several = _files_in(folder / platform)
    return [single, *several] if is_present(single) else several


def shared_files(folder: Path) -> list[Path]:
    """The packaged rule files of several platforms, which each of them says."""
    return _files_in(folder / SHARED)


def _files_in(folder: Path) -> list[Path]:
    found = yaml_files_below(folder) if folder.is_dir() else ()
    return [file for file in found if file.parent == folder and holds_rules(file)]


def vocabulary_files(overlays: Sequence[Path] = (), *, packaged: Path | None = None) -> list[Path]:
    """The vocabulary of a rule set, the packaged one's if it has none, and those of overlays."""
    folders = (packaged or packaged_rules(), packaged_rules())
    own = next(folder / VOCABULARY for folder in folders if (folder / VOCABULARY).is_file())
    return [own, *(words for overlay in overlays if is_present(words := overlay / WORDS))]


def load_platform(
    platform: str,
    overlays: Sequence[Path] = (),
    *,
    packaged: Path | None = None,
    release: str | None = None,
) -> PlatformRules:
    """Load the rules of one platform from the packaged tables and overlays.

    ``packaged`` is another rule set in place of the packaged one; without a vocabulary of its own
    it has that one's. ``release`` is one that the rule set knows ("0.32"), the latest if absent;
    overlays lie over it. Raises RuleFileError with every problem of every file, FactError for a
    platform that does not exist, TypeError for overlays that are no list of paths.
    """
    parse_value(FACTS["device"], platform)
    overlays = tuple(map(Path, _several(overlays)))
    folder = packaged or packaged_rules()
    if release is not None:
        overlays = (*release_of(release, folder).folders, *overlays)
    own, shared = platform_files(platform, folder), shared_files(folder)
    words = vocabulary_files(overlays, packaged=folder)
    overlay_files = [path for overlay in overlays for path in rule_files(overlay)]
    files = [*own, *shared, *overlay_files, *words]
    names = [str(file) for file in files]

    def make() -> dict[str, Any]:
        from moe_rules.language.reading import linked

        return to_plain(linked(platform, own, shared, overlay_files, words, overlays), names)

    named = [number for number, file in enumerate(overlay_files) if file in overlays]
    what = f"rules of {platform}, {len(own)} packaged files, {len(shared)} shared, "
    what += f"{len(words)} of words, overlays {named} named"
    return from_plain(stored(what, files, ROOMS, make), names)
