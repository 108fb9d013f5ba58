"""What ``diff`` compares: rule sets, overlays on packaged tables, either at a git revision."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from moe_rules.cli.errors import UserError
from moe_rules.cli.rule_paths import INSIDE, below, rule_set_of
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import RuleFileError
from moe_rules.files.releases import MODELS, Release, called, release_of, releases
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform, overlay_path, with_rules
from moe_rules.models.tables import Tables, load_tables
from moe_rules.vocabulary.record import Record

PACKAGED = "packaged"
FOLDER = "rules"
"""Where a repository has its rule set, unless a revision says another place (REVISION:PATH)."""
_RANGE = re.compile(r"(?<![:/])\.\.(?!/)")
"""What stands between two revisions, and is no part of a path."""


class RuleSet(Record):
    """Rules to compare: a whole set in a folder, with overlays on it or without.

    ``name`` is what the user calls them, ``options`` those of a command that applies them; None: no
    command can, for they are of a git revision.
    """

    name: str
    folder: Path
    overlays: tuple[Path, ...] = ()
    options: tuple[str, ...] | None = ()

    @property
    def arguments(self) -> list[str] | None:
        """How a command is told to read them; None where it cannot be."""
        if self.folder != packaged_rules() or self.options is None:
            return None
        return list(self.options)

    def load(self, platform: str) -> PlatformRules:
        """The rules of one platform. Raises RuleFileError."""
        return load_platform(platform, self.overlays, packaged=self.folder)

    def tables(self) -> Tables:
        """The tables of models; the packaged ones below the overlays if it has none of its own."""
        own = self.folder / MODELS
        return load_tables(own if own.is_dir() else None, self.overlays)

    def over(self, release: Release | None) -> RuleSet:
        """The same over a release, unless it names one itself or is another rule set."""
        given = self.options or ()
        if release is None or "--release" in given or self.folder != packaged_rules():
            return self
        overlays = (*release.folders, *self.overlays)
        options = None if self.options is None else ("--release", release.name, *given)
        return self.replaced(overlays=overlays, options=options)


def rule_sets(before: str, after: str | None, stack: ExitStack) -> tuple[RuleSet, RuleSet]:
    """What two words name; temporary folders last as long as ``stack``.

    Of one word, ``A..B`` are two revisions (without B, what lies in the working tree), a revision
    is compared with the working tree, and anything else with the packaged rules. Raises UserError.
    """
    if after is not None:
        return rule_set(before, stack), rule_set(after, stack)
    if Path(before).exists():
        return RuleSet(PACKAGED, packaged_rules()), rule_set(before, stack)
    several = _RANGE.split(before, maxsplit=1)
    if len(several) > 1:
        first, second = several
        path = _path_of(first)
        return rule_set(first, stack), rule_set(second, stack) if second else _working_tree(path)
    found = rule_set(before, stack)
    if found.folder == packaged_rules():
        return RuleSet(PACKAGED, packaged_rules()), found
    return found, _working_tree(_path_of(before))


def rule_set(word: str, stack: ExitStack) -> RuleSet:
    """What a word names: "packaged", a path, a release, a packaged overlay, or a git revision.

    Raises UserError.
    """
    if word == PACKAGED:
        return RuleSet(word, packaged_rules())
    if not word:  # it would be the current folder
        raise UserError("an empty word names no rules")
    path = Path(word)
    if path.exists():
        return _at(word, path)
    release = called(word, releases())
    if release is not None:
        return RuleSet(word, packaged_rules(), release.folders, ("--release", release.name))
    try:
        return RuleSet(word, packaged_rules(), (overlay_path(word),), ("--rules", word))
    except RuleFileError as error:
        (problem,) = error.problems
    revision, _, _ = word.partition(":")
    if not _has(revision):
        names = ", ".join(one.name for one in releases())
        raise UserError(
            f"{word}: there is no such file, folder, git revision or release ({names}), "
            f"and {problem.message}"
        )
    return _revision(word, revision, _path_of(word), stack)


def _at(name: str, path: Path) -> RuleSet:
    """The rule set that a path is or lies in, or an overlay on the packaged one."""
    root = rule_set_of(path)
    if root is None:
        return RuleSet(name, packaged_rules(), (with_rules(path),), ("--rules", name))
    if path.absolute().relative_to(root).parts[:1] not in [(folder,) for folder in INSIDE]:
        return RuleSet(name, root)
    overlays = (*below(path.absolute(), root), path)
    return RuleSet(name, root, overlays, ("--rules", name))


def _path_of(word: str) -> str:
    """The place in the repository that a revision names."""
    return word.partition(":")[2] or FOLDER


def _working_tree(path: str) -> RuleSet:
    place = _place(path)
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder to compare the revision with")
    return _at("the working tree", place)


def _place(path: str) -> Path:
    """Where something of the repository lies in the working tree. Raises UserError if outside."""
    found = _git("rev-parse", "--show-toplevel")
    assert found is not None
    top = Path(found.decode().strip())
    place = Path(os.path.normpath(top / path))
    if not place.is_relative_to(top):
        raise UserError(f"{path} lies outside of the repository {top}")
    return place


def _revision(name: str, revision: str, path: str, stack: ExitStack) -> RuleSet:
    """The rules at a revision, written to a temporary folder.

    Before an overlay of the working tree was there, they are those that it lies on.
    """
    place = _place(path)
    packed = _git("archive", "--format=tar", revision, "--", path, top=True)
    if packed is None and place.exists() and (new := _at(name, place)).overlays:
        return RuleSet(f"{name} (not there yet)", new.folder)
    if packed is None:
        raise UserError(f"{name}: {revision} has no {path}; write REVISION:PATH for another place")
    folder = stack.enter_context(TemporaryDirectory(prefix="moe_rules-"))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return _at(name, Path(folder, path)).replaced(options=None)


def _has(revision: str) -> bool:
    """Whether the repository has it; HEAD also before the first commit, when it has no files."""
    if _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}") is not None:
        return True
    return revision == "HEAD" and _git("symbolic-ref", "--quiet", revision) is not None


def _git(*words: str, top: bool = False) -> bytes | None:
    """What git prints; None if it fails. ``top``: in the folder at the top of the repository."""
    here = None
    if top:
        found = _git("rev-parse", "--show-toplevel")
        here = None if found is None else found.decode().strip()
    try:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def release_pair(before: str | None, after: str | None) -> tuple[RuleSet, RuleSet]:
    """The rule sets of two releases by name: by default the latest, and the one before the other.

    Raises RuleFileError for one that there is not, UserError where none is before the other.
    """
    known = releases()
    to = known[0] if after is None else release_of(after)
    older = known[known.index(to) + 1 :]
    if before is None and not older:
        raise UserError(f"there are no tables of a release before {to.name}; say --from")
    return _release(older[0] if before is None else release_of(before)), _release(to)


def _release(one: Release) -> RuleSet:
    return RuleSet(one.name, packaged_rules(), one.folders, ("--release", one.name))
