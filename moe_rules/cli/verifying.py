"""Verifies rules: what is found in them by asking all deployments, without what is accepted.

A rule set is verified as it is. An overlay is verified on top of the packaged tables, or of the
rule set that it lies in; of these, what it makes unreachable is found as well.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Literal

from moe_rules.analysis.findings import Finding
from moe_rules.analysis.verification import findings
from moe_rules.cli.rule_paths import existing, overlay_of, rule_set_of, shown, yaml_files
from moe_rules.cli.witness import explain_command
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import KeyPath, Location, Problem
from moe_rules.files.yaml_source import KEY, YamlSource, read_yaml
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import PLATFORMS, load_platform
from moe_rules.reporting import Report
from moe_rules.vocabulary.fact_values import plain

ACCEPTED = "accepted"


def verify(paths: Iterable[Path]) -> Report:
    """Verify files, folders and packaged overlays by name; the packaged rules if there are none.

    Raises UserError for a path that does not exist, RuleFileError for rules that cannot be used.
    """
    problems: list[Problem] = []
    files: list[str] = []
    for path in [existing(path) for path in paths] or [packaged_rules()]:
        root = rule_set_of(path)
        asked: dict[Path | None, set[str]] = {}
        for file in yaml_files(path):
            asked.setdefault(overlay_of(file, path, root), set()).add(str(file.resolve()))
        for overlay, its_files in asked.items():
            found, read = _verified(overlay, its_files, root)
            problems += found
            files += read
    return Report.of(problems, [shown(Path(file)) for file in files], command="verify")


def _verified(
    overlay: Path | None, asked: set[str], root: Path | None
) -> tuple[list[Problem], list[str]]:
    """What is found in the files of one rule set or overlay, and those that have rules."""
    problems: list[Problem] = []
    read: list[str] = []
    for platform in PLATFORMS:
        rules = load_platform(platform, () if overlay is None else (overlay,), packaged=root)
        own = [file for file in rules.files if str(Path(file).resolve()) in asked]
        if not own:
            continue
        read += own
        found = list(findings(rules, own))
        known = _unreachable(platform, root) if overlay is not None else frozenset()
        acceptances = Acceptances(rules.files)
        word = None if overlay is None else shown(overlay)
        for one in found:
            if (one.code, one.location) in known or acceptances.accepts(one):
                continue
            is_own = one.location.file in own
            if is_own or not acceptances.are_general(one.code, own):
                problems.append(_problem(one, rules, word, "error" if is_own else "warning"))
        problems += acceptances.needless(own)
    return problems, read


@functools.cache
def _unreachable(platform: str, root: Path | None) -> frozenset[tuple[str, Location]]:
    """What nothing reaches in a rule set without an overlay."""
    rules = load_platform(platform, packaged=root)
    return frozenset((one.code, one.location) for one in findings(rules, ()))


def _problem(
    one: Finding, rules: PlatformRules, overlay: str | None, severity: Literal["error", "warning"]
) -> Problem:
    """The finding as a problem of a file, with a command that shows it."""
    message = f"{one.message} (never)"
    if one.witness:
        overlays = [] if overlay is None else [overlay]
        command = explain_command(rules.platform, one.oracle, one.witness, overlays)
        message = f"{one.message}; see: {command}"
    place = _shown(one.location)
    witness = tuple((name, plain(value)) for name, value in one.witness.items())
    return Problem(one.code, message, place, severity, witness)


def _shown(place: Location) -> Location:
    return place.replaced(file=shown(Path(place.file)))


class Acceptances:
    """What files accept: each ``accepted`` holds for what stands in the table that has it.

    That of a whole file is general: for what an overlay makes of other files, too, and needed or
    not.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self.sources = {file: read_yaml(file) for file in files}
        self.paths = {file: _paths(source) for file, source in self.sources.items()}
        self.used: set[tuple[str, KeyPath, str]] = set()

    def accepts(self, finding: Finding) -> bool:
        """Whether the finding is accepted where it is, or by all rules whose condition it is in."""
        by_holders = [self._accepts(finding.code, place) for place in finding.holders]
        return self._accepts(finding.code, finding.location) or (
            by_holders != [] and all(by_holders)
        )

    def _accepts(self, code: str, place: Location) -> bool:
        if place.file not in self.sources:
            return False
        source = self.sources[place.file]
        path = self.paths[place.file].get((place.line, place.column), ())
        for end in range(len(path), -1, -1):
            accepted = (*path[:end], ACCEPTED, code)
            if accepted in source.places:
                self.used.add((place.file, accepted, code))
                return True
        return False

    def are_general(self, code: str, files: Iterable[str]) -> bool:
        """Whether one of the files accepts the code in general."""
        return any((ACCEPTED, code) in self.sources[file].places for file in files)

    def needless(self, files: Container[str]) -> Iterator[Problem]:
        """What is accepted in some files, but not found."""
        for file, source in self.sources.items():
            if file not in files:
                continue
            for path in source.places:
                if len(path) < 3 or path[-2] != ACCEPTED or path[-1] == KEY:
                    continue
                if (file, path, str(path[-1])) not in self.used:
                    message = f"{path[-1]} is accepted here, but not found"
                    yield Problem("needless-acceptance", message, _shown(source.key_at(path)))


def _paths(source: YamlSource) -> dict[tuple[int, int], KeyPath]:
    """What stands at each place of a document: the innermost key or item."""
    found: dict[tuple[int, int], KeyPath] = {}
    for path, place in source.places.items():
        inner = path[:-1] if path[-1:] == (KEY,) else path
        spot = (place.line, place.column)
        if len(inner) >= len(found.get(spot, ())):
            found[spot] = inner
    return found
