"""Runs the examples in files and folders, each with the rules that it lies beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from moe_rules.cli.errors import UserError
from moe_rules.cli.rule_paths import below, existing, overlay_of, rule_set_of, shown, yaml_files
from moe_rules.conformance.coverage import Line, covered_by, lines_of
from moe_rules.conformance.examples import Result, Rules
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import Location, Problem, RuleFileError
from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.examples import examples_of
from moe_rules.language.ruleset import holds_examples
from moe_rules.reporting import Case, Report
from moe_rules.vocabulary.table_names import PLATFORMS


def run_examples(
    paths: Iterable[Path],
    overlays: Sequence[Path] = (),
    release: str | None = None,
    *,
    coverage: bool = False,
    at_least: float | None = None,
) -> Report:
    """Run the examples at ``paths``, those of the packaged rules if there are none.

    ``coverage`` warns of every line of the rules there that no example covers; fewer than
    ``at_least`` percent of them covered are an error. Examples of a release are run on it, all
    others on ``release`` (None: the latest). Raises UserError where there is no example,
    RuleFileError where the rules themselves are wrong.
    """
    runner = _Runner(tuple(overlays), release)
    for path in [existing(path) for path in paths] or [packaged_rules()]:
        runner.run(path)
    covered = _covered(runner) if coverage or at_least is not None else ""
    problems = [*runner.problems, *(p for case in runner.cases for p in case.problems)]
    if coverage:
        problems += runner.uncovered()
    if at_least is not None and runner.percent < at_least:
        message = f"{covered}; {at_least:g} % are wanted"
        problems.append(Problem("coverage", message, Location(runner.files[0])))
    return Report.of(
        problems, runner.files, command="test", examples=tuple(runner.cases), remark=covered
    )


def _covered(runner: _Runner) -> str:
    covered = len(runner.lines & runner.covered)
    return f"{covered} of {len(runner.lines)} lines of rules are covered ({runner.percent:.1f} %)"


class _Runner:
    def __init__(self, overlays: tuple[Path, ...], release: str | None) -> None:
        self.overlays, self.release = overlays, release
        self.files: list[str] = []
        self.problems: list[Problem] = []
        self.cases: list[Case] = []
        self.lines: set[Line] = set()
        self.covered: set[Line] = set()

    def run(self, path: Path) -> None:
        """Run the examples of a file or a folder. Raises UserError, RuleFileError."""
        root = rule_set_of(path)
        found = [file for file in yaml_files(path) if holds_examples(file)]
        if not found:
            raise UserError(f"{path}: no examples; their files end in .test.yaml")
        asked = path if path.is_dir() else path.parent
        known: dict[Path | None, Rules] = {}
        for file in found:
            overlay = overlay_of(file, asked, root)
            if overlay not in known:
                own = () if overlay is None else (overlay,)
                under = below(overlay, root, self.release)
                known[overlay] = Rules((*under, *self.overlays, *own), root)
            self.run_file(file, known[overlay])
        inside = {file.resolve() for file in yaml_files(asked)}
        for rules in known.values():
            for platform in map(rules.platform, PLATFORMS):
                here = {file for file in platform.files if Path(file).resolve() in inside}
                self.lines |= {line for line in lines_of(platform) if line[0] in here}

    def run_file(self, file: Path, rules: Rules) -> None:
        name = shown(file)
        self.files.append(name)
        try:
            examples = examples_of(read_yaml(file, display=name))
        except RuleFileError as error:
            self.problems.extend(error.problems)
            return
        for example in examples:
            result: Result = rules.run(example)
            self.cases.append(Case(example.name, name, result.problems))
            if result.decision is not None:
                self.covered |= covered_by(result.decision)

    @property
    def percent(self) -> float:
        """The share of lines that are covered; all of none."""
        return 100 * len(self.lines & self.covered) / len(self.lines) if self.lines else 100.0

    def uncovered(self) -> Iterator[Problem]:
        for file, line in self.lines - self.covered:
            message = "this line makes no difference to an example"
            place = Location(shown(Path(file)), line)
            yield Problem("uncovered", message, place, "warning")
