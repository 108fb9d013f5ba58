"""``python -m tools.record VERSION``: records what a release of vLLM decides. docs/recording.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from moe_rules.cli.errors import UserError
from moe_rules.cli.unrecognized import unrecognized_error
from moe_rules.conformance.cases import CaseError, case_files
from moe_rules.vocabulary.fact_values import did_you_mean
from tools.record import executed
from tools.record.comparing import compare
from tools.record.environment import NoEnvironmentError, python_of
from tools.record.places import ORACLES
from tools.record.recording import KEPT, Plan, RecordingError, known_machines, record

CACHE = Path(".record")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code: 0, 1 where answers differ, 2 for what fails."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options, unrecognized = parser.parse_known_args(words)
    console = Console(stderr=True)
    try:
        if unrecognized:
            raise unrecognized_error(words, unrecognized, parser)
        return _run(options, console)
    except (RecordingError, NoEnvironmentError, CaseError, UserError) as error:
        said = str(error)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}"
    except KeyboardInterrupt:
        console.print("interrupted: the same command goes on with the machines that are left")
        return 130
    console.print(f"error: {said}", markup=False, highlight=False, style="red", soft_wrap=True)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.record", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("version", help="a release of vLLM, as 0.33.0")
    add("--machine", action="append", default=[], help="as cuda-sm90 or h100; all if absent")
    add("--platform", action="append", default=[], help="machines of a kind, as cuda")
    add("--oracle", action="append", default=[], help="as fp8; all if absent")
    add("--cases", type=int, default=600, help="cases per oracle and machine (%(default)s)")
    add("--seed", type=int, default=0, help="other seeds make other cases (%(default)s)")
    add("--inputs", nargs="+", default=[], help="ask these recorded cases instead of new ones")
    add("--compare", nargs="+", default=[], type=Path, help="recorded cases to compare with")
    add("--python", type=Path, help="that of an environment with the release; else one is made")
    add("--cache", type=Path, default=CACHE, help="environments and recordings (%(default)s)")
    add("--out", type=Path, help="the recording's folder (CACHE/cases/VERSION if absent)")
    add("--jobs", type=int, default=1, help="machines at a time (%(default)s)")
    return parser


def _run(options: argparse.Namespace, console: Console) -> int:
    for oracle in options.oracle:
        if oracle not in ORACLES:
            raise RecordingError(f"no oracle {oracle!r}{did_you_mean(oracle, ORACLES)}")
    if options.cases < 1 or options.jobs < 1:
        raise RecordingError("--cases and --jobs are at least 1")
    # All that may be wrong is found before what takes long.
    names = known_machines(options.machine, options.platform)
    inputs = case_files(map(Path, options.inputs)) if options.inputs else ()
    compared = case_files(options.compare) if options.compare else ()
    out = options.out or options.cache / "cases" / options.version
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    python = options.python or python_of(options.version, options.cache)
    if not python.exists():
        raise RecordingError(f"there is no Python {python}")
    environment = time.perf_counter() - started
    plan = Plan(
        options.version,
        names,
        tuple(options.oracle),
        options.cases,
        options.seed,
        tuple(str(path.resolve()) for path in inputs),
    )
    with _Bars(console) as bars:
        reports = record(plan, python.absolute(), out, bars.show, jobs=options.jobs)
    _summarize(reports, out, console)
    seconds = time.perf_counter() - started
    console.print(f"{seconds:.0f} s, of which {environment:.0f} s for the environment; in {out}")
    if not compared:
        return 0
    verdict = compare(compared, [out])
    console.print(verdict.text(), markup=False, highlight=False)
    return 0 if verdict.agrees else 1


class _Bars:
    """A bar for every machine that is being recorded."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, machine: str, asked: int, of: int) -> None:
        """Show how far a machine is."""
        if machine not in self._tasks:
            self._tasks[machine] = self._progress.add_task(machine, total=of)
        self._progress.update(self._tasks[machine], completed=asked)


def _summarize(reports: Mapping[str, Mapping[str, Any]], out: Path, console: Console) -> None:
    """Say what is recorded and what is not, and put down which lines of vLLM were executed."""
    cases = sum(report["cases"] for report in reports.values())
    console.print(f"{cases} cases of {len(reports)} machines")
    asked = [report for report in reports.values() if "oracles" in report]
    lacking = {oracle for report in asked for oracle in ORACLES.keys() - set(report["oracles"])}
    for oracle in sorted(lacking):
        console.print(f"vLLM {asked[0]['release']} has no oracle {oracle}")
    for place in sorted({place for report in asked for place in report["missing"]}):
        console.print(f"vLLM {asked[0]['release']} has no {place}", highlight=False)
    left_out: Counter[str] = Counter()
    for report in asked:
        left_out.update(report["left_out"])
    for why, number in left_out.most_common():
        console.print(f"left out {number}: {why}", markup=False, highlight=False)
    if asked:
        _write_executed(asked, out, console)


def _write_executed(reports: Sequence[Mapping[str, Any]], out: Path, console: Console) -> None:
    files = sorted((out / KEPT / "executed").glob("*.json"))
    lines = executed.merged(json.loads(path.read_text()) for path in files)
    package = Path(reports[0]["package"])
    if not package.exists():
        console.print(f"{package} is gone: which lines were executed is not reported")
        return
    functions = executed.selection(executed.measured_sources(package))
    kernels = [report["kernels"] for report in reports]
    data = executed.report(functions, lines, reports[0]["release"], kernels)
    (out / "executed.md").write_text(executed.markdown(data))
    (out / KEPT / "executed.json").write_text(json.dumps(data, indent=1) + "\n")
    console.print(executed.summary(data), highlight=False)


if __name__ == "__main__":
    sys.exit(main())
