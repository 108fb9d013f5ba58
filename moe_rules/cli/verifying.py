"""Verifies rules: what is found in them by asking all deployments, without what is accepted.

A rule set is verified as it is. An overlay is verified on top of the packaged tables, or of the
rule set that it lies in; of these, what it makes unreachable is found as well.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

from moe_rules.analysis.findings import Finding
from moe_rules.analysis.verification import findings
from moe_rules.cli.rule_paths import (
    below,
    existing,
    overlay_of,
    rule_options,
    rule_set_of,
    shown,
    yaml_files,
)
from moe_rules.cli.witness import explain_command
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import KeyPath, Location, Problem
from moe_rules.files.yaml_source import KEY, YamlSource, read_yaml
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.reporting import Report
from moe_rules.vocabulary.fact_values import plain
from moe_rules.vocabulary.record import Record
from moe_rules.vocabulary.table_names import PLATFORMS

ACCEPTED = "accepted"
NEEDLESS = "needless-acceptance"
PROCESSES = 2


def verify(paths: Iterable[Path], release: str | None = None) -> Report:
    """Verify files, folders and packaged overlays by name; the packaged rules if there are none.

    Overlays are verified over the latest release, or another one. Raises UserError for a path that
    does not exist, RuleFileError for rules that cannot be used.
    """
    tasks = [
        task
        for path in [existing(path) for path in paths] or [packaged_rules()]
        for task in _tasks(path, release)
    ]
    if len(tasks) > 1:
        with ProcessPoolExecutor(min(len(tasks), PROCESSES)) as pool:
            found = [*pool.map(_verified, tasks)]
    else:
        found = [*map(_verified, tasks)]
    files = [shown(Path(file)) for task in tasks for file in task.files]
    times, platforms = Counter(itertools.chain(*found)), Counter(files)
    # What is accepted is needless if it is on every platform that the file is of.
    problems = [
        one
        for one, count in times.items()
        if one.code != NEEDLESS or count == platforms[one.location.file]
    ]
    return Report.of(problems, files, command="verify")


class Task(Record):
    """The rules of one platform: an overlay on a rule set or a release of it, or a rule set.

    ``files`` are those of them that are asked about.
    """

    platform: str
    overlay: Path | None
    root: Path | None
    release: str | None
    files: tuple[str, ...]

    def rules(self) -> PlatformRules:
        """The rules. Raises RuleFileError."""
        return load_platform(self.platform, self.overlays, packaged=self.root)

    @property
    def overlays(self) -> tuple[Path, ...]:
        """The overlay, after what lies below it."""
        if self.overlay is None:
            return ()
        return (*below(self.overlay, self.root, self.release), self.overlay)


def _tasks(path: Path, release: str | None) -> Iterator[Task]:
    root = rule_set_of(path)
    asked: dict[Path | None, set[Path]] = {}
    for file in yaml_files(path):
        asked.setdefault(overlay_of(file, path, root), set()).add(file.resolve())
    for overlay, its_files in asked.items():
        for platform in PLATFORMS:
            task = Task(platform, overlay, root, release, ())
            files = [file for file in task.rules().files if Path(file).resolve() in its_files]
            if files:
                yield task.replaced(files=tuple(files))


class Judged(Record):
    """Something found in the packaged tables of a platform, and why they accept it, if they do."""

    platform: str
    finding: Finding
    accepted: str | None


def judged(platform: str) -> list[Judged]:
    """All that is found in the packaged tables of a platform."""
    rules = load_platform(platform)
    acceptances = Acceptances(rules.files)
    return [Judged(platform, one, acceptances.reason(one)) for one in findings(rules, rules.files)]


def _verified(task: Task) -> list[Problem]:
    """What is found in the files of one platform."""
    rules = task.rules()
    found = list(findings(rules, task.files))
    known = (
        frozenset()
        if task.overlay is None
        else _unreachable(task.platform, task.overlays[:-1], task.root)
    )
    acceptances = Acceptances(rules.files)
    problems = []
    for one in found:
        if (one.code, one.location) in known or acceptances.reason(one) is not None:
            continue
        is_own = one.location.file in task.files
        if is_own or not acceptances.are_general(one.code, task.files):
            options = rule_options(task.overlays)
            problems.append(_problem(one, rules, options, "error" if is_own else "warning"))
    return [*problems, *acceptances.needless(task.files)]


@functools.cache
def _unreachable(
    platform: str, overlays: tuple[Path, ...], root: Path | None
) -> frozenset[tuple[str, Location]]:
    """What nothing reaches in a rule set with what lies below an overlay."""
    rules = load_platform(platform, overlays, packaged=root)
    return frozenset((one.code, one.location) for one in findings(rules, ()))


def _problem(
    one: Finding,
    rules: PlatformRules,
    options: Sequence[str],
    severity: Literal["error", "warning"],
) -> Problem:
    """The finding as a problem of a file, with a command that shows it."""
    message = f"{one.message} (never)"
    if one.witness:
        command = explain_command(rules.platform, one.oracle, one.witness, options)
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

    def reason(self, finding: Finding) -> str | None:
        """Why the finding is accepted: where it is, or by all rules whose condition it is in."""
        by_holders = [self._reason(finding.code, place) for place in finding.holders]
        reason = self._reason(finding.code, finding.location)
        if reason is None and None not in by_holders:
            return next(iter(by_holders), None)
        return reason

    def _reason(self, code: str, place: Location) -> str | None:
        if place.file not in self.sources:
            return None
        source = self.sources[place.file]
        path = self.paths[place.file].get((place.line, place.column), ())
        for end in range(len(path), -1, -1):
            accepted = (*path[:end], ACCEPTED, code)
            if accepted in source.places:
                self.used.add((place.file, accepted, code))
                return str(functools.reduce(operator.getitem, accepted, source.data))
        return None

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
                    yield Problem(NEEDLESS, message, _shown(source.key_at(path)))


def _paths(source: YamlSource) -> dict[tuple[int, int], KeyPath]:
    """What stands at each place of a document: the innermost key or item."""
    found: dict[tuple[int, int], KeyPath] = {}
    for path, place in source.places.items():
        inner = path[:-1] if path[-1:] == (KEY,) else path
        spot = (place.line, place.column)
        if len(inner) >= len(found.get(spot, ())):
            found[spot] = inner
    return found
