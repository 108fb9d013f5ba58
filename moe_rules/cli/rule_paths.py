"""Paths of rules on the command line: what stands there, and which rules it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moe_rules.cli.errors import UserError
from moe_rules.files.present import yaml_files_below
from moe_rules.files.problems import RuleFileError
from moe_rules.files.releases import FOLDER, release_of, releases
from moe_rules.language.ruleset import VOCABULARY, is_hidden, overlay_path

OVERLAYS = "overlays"
INSIDE = (OVERLAYS, FOLDER)
"""The folders of a rule set that have overlays on it: those that it offers, and older releases."""


def existing(path: Path) -> Path:
    """The path, or the packaged overlay of that name. Raises UserError if there is neither."""
    try:
        return overlay_path(str(path))
    except RuleFileError as error:
        (problem,) = error.problems
        raise UserError(f"{path}: there is no such file or folder, and {problem.message}") from None


def yaml_files(path: Path) -> list[Path]:
    """The file, or the YAML files of the folder that are not hidden. Raises UserError."""
    if not path.is_dir():
        return [path]
    visible = [file for file in yaml_files_below(path) if not is_hidden(file, path)]
    if not visible:
        raise UserError(f"{path}: the folder has no YAML file")
    return visible


def rule_set_of(path: Path) -> Path | None:
    """The rule set that a path is, or lies in."""
    here = path.absolute()
    return next((f for f in (here, *here.parents) if (f / VOCABULARY).is_file()), None)


def overlay_of(file: Path, asked: Path, root: Path | None) -> Path | None:
    """The overlay that a file is part of: one of the rule set's, or else what was asked about."""
    if root is None:
        return asked
    inside = file.absolute().relative_to(root).parts
    return root.joinpath(*inside[:2]) if inside[0] in INSIDE and len(inside) > 1 else None


def below(overlay: Path | None, root: Path | None, release: str | None = None) -> tuple[Path, ...]:
    """What lies between a rule set and an overlay on it (None: none): a release, if asked for.

    For a release itself, the later ones. Raises RuleFileError for a release that there is not.
    """
    asked = () if release is None else release_of(release, root).folders
    found = (one.folders[:-1] for one in releases(root) if one.folders[-1:] == (overlay,))
    return next(found, asked)


def rule_options(overlays: Sequence[Path]) -> list[str]:
    """The options of a command that applies overlays to the packaged rules."""
    older = {one.folders[-1]: one.name for one in releases() if one.folders}
    names = [older[path] for path in overlays if path in older]
    words = ["--release", names[-1]] if names else []
    for path in overlays:
        words += [] if path in older else ["--rules", shown(path)]
    return words


def shown(path: Path) -> str:
    """The path as a user writes it: relative to where they are, if it is below."""
    here = Path.cwd()
    return (
        str(path.absolute().relative_to(here))
        if path.absolute().is_relative_to(here)
        else str(path)
    )
