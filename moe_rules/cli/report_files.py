"""What a report calls the files that its places are in: never by where the computer has them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from moe_rules.cli.rule_sets import RuleSet
from moe_rules.files.packaged import packaged_rules


class ReportFiles:
    """Names of the files of some rule sets.

    Packaged ones, and those below the working directory, have their path in the repository. Others
    are named from their overlay or rule set on: ``mine/cuda.yaml``; those of a git revision begin
    with what the user calls it: ``HEAD~1/cuda/fp8.yaml``. ``in_repository`` are the first of these,
    as far as they were asked for.
    """

    def __init__(self, rules: Iterable[RuleSet]) -> None:
        self.in_repository: set[str] = set()
        self._roots = {packaged_rules(): "rules", Path.cwd(): ""}
        self._repository = frozenset(self._roots)
        for one in rules:
            for root in (*one.overlays, one.folder):
                label = one.name if one.options is None else root.name
                self._roots.setdefault(Path(os.path.abspath(root)), label)

    def name(self, file: str) -> str:
        """What a file is called; what is none, as a variable that asks for a backend, is kept."""
        if not os.path.exists(file):
            return file
        path = Path(os.path.abspath(file))
        for root, label in self._roots.items():
            if path.is_relative_to(root):
                name = Path(label, path.relative_to(root)).as_posix()
                if root in self._repository:
                    self.in_repository.add(name)
                return name
        return path.name
