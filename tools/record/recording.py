"""Records a release: one process per machine, resumable, and a report of what it came to.

The folder of a recording holds ``MACHINE.jsonl.gz``, which ``moe-rules conformance`` reads, and
beside them ``recording/``: what was planned, what each machine's process reported, which lines of
vLLM it executed, and its log. A machine is done once its report is there; a recording that was
interrupted goes on with the others, and one with another plan needs another folder.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moe_rules.cli.errors import UserError
from moe_rules.cli.narrowing import platform_called
from moe_rules.conformance.cases import Case, case_files, read_lines
from moe_rules.conformance.writing import platform_name
from moe_rules.machines.machine import Machine, MachineError, load_machine
from moe_rules.vocabulary.fact_values import did_you_mean
from tools.record.generator import cases_of
from tools.record.machines import machines

ROOT = Path(__file__).parents[2]
WORKER = ("-m", "tools.record.worker")
KEPT = "recording"
"""The folder with what is no case."""


class RecordingError(Exception):
    """A recording cannot be made. The text says why, and what can be done."""


@dataclass(frozen=True)
class Plan:
    """What is recorded: the release, machines and oracles, and how cases are made.

    ``oracles`` are all if there are none. ``inputs`` are files of cases that are asked instead of
    generated ones.
    """

    release: str
    machines: tuple[str, ...]
    oracles: tuple[str, ...] = ()
    cases: int = 600
    seed: int = 0
    inputs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The plan as the folder of a recording states it; the machines may grow."""
        said: dict[str, Any] = {"release": self.release, "oracles": list(self.oracles)}
        if self.inputs:
            return {**said, "inputs": list(self.inputs)}
        return {**said, "cases": self.cases, "seed": self.seed}


class Progress(Protocol):
    """Is told how far a machine is: cases that were asked, of how many."""

    def __call__(self, machine: str, asked: int, of: int) -> None:
        """Show it."""


def known_machines(names: Iterable[str], platforms: Iterable[str]) -> tuple[str, ...]:
    """The machines of these names and kinds of device, all if there are none.

    A name is that which cases give ("cuda-sm90"), or one of ``moe-rules list machines`` ("h100"),
    which stands for the machine that is recorded in its place. Raises RecordingError.
    """
    known = machines()
    try:
        devices = {platform_called(name) for name in platforms}
    except UserError as error:
        raise RecordingError(str(error)) from None
    wanted = {_called(name, known) for name in names}
    found = [
        name
        for name, machine in known.items()
        if (not wanted or name in wanted) and (not devices or machine.device in devices)
    ]
    if not found:
        raise RecordingError("nothing is recorded: no machine is what --machine and --platform say")
    return tuple(found)


def _called(name: str, known: Mapping[str, Machine]) -> str:
    try:
        recorded = name if name in known else platform_name(load_machine(name))
    except MachineError:
        recorded = ""
    if recorded not in known:
        raise RecordingError(
            f"--machine {name}: no such machine is recorded{did_you_mean(name, known)} "
            f"(one of {', '.join(known)}, or of moe-rules list machines)"
        )
    return recorded


def record(
    plan: Plan, python: Path, out: Path, progress: Progress, *, jobs: int = 1
) -> dict[str, dict[str, Any]]:
    """Record what is not recorded yet, and return the reports of all machines of the plan.

    ``python`` is that of an environment with the release. Raises RecordingError where the folder
    holds another recording, and where a machine fails, which ends the others as well.
    """
    kept = out / KEPT
    for folder in ("inputs", "reports", "executed", "logs"):
        (kept / folder).mkdir(parents=True, exist_ok=True)
    _agree(plan, kept / "plan.json")
    stop = threading.Event()
    given = _given(plan.inputs)
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [
            pool.submit(_machine, plan, name, python, out, given, progress, stop)
            for name in plan.machines
            if not _report(kept, name).exists()
        ]
        try:
            for done in as_completed(waiting):
                done.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return {name: _read(_report(kept, name)) for name in plan.machines}


def _read(path: Path) -> dict[str, Any]:
    """A mapping that an earlier recording put down. Raises RecordingError."""
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise RecordingError(f"{path} is damaged ({error}): remove it") from None
    if not isinstance(found, dict):
        raise RecordingError(f"{path} is damaged (no mapping): remove it")
    return found


def _report(kept: Path, machine: str) -> Path:
    return kept / "reports" / f"{machine}.json"


def _agree(plan: Plan, path: Path) -> None:
    said = plan.to_dict()
    if path.exists() and (before := _read(path)) != said:
        different = ", ".join(
            f"{name} {before.get(name)} and not {said.get(name)}"
            for name in sorted(before.keys() | said.keys())
            if before.get(name) != said.get(name)
        )
        raise RecordingError(
            f"{path.parent.parent} holds another recording, with {different}: "
            "name another folder by --out, or remove it"
        )
    path.write_text(json.dumps(said, indent=1) + "\n")


def _given(paths: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Recorded cases by their machine. Raises CaseError."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in case_files(map(Path, paths)) if paths else ():
        for number, case in read_lines(path):
            found[Case.parse(case, f"{path}:{number}").platform_name].append(case)
    return found


def _machine(
    plan: Plan,
    name: str,
    python: Path,
    out: Path,
    given: Mapping[str, list[dict[str, Any]]],
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Make the inputs of a machine, have them asked, and put down its report, last of all."""
    if stop.is_set():
        return
    kept = out / KEPT
    started = time.perf_counter()
    if plan.inputs:
        wanted = set(plan.oracles)
        cases = [c for c in given.get(name, ()) if not wanted or c["oracle"] in wanted]
    else:
        cases = list(cases_of(machines()[name], name, plan.cases, plan.seed, plan.oracles))
    made = time.perf_counter() - started
    report: dict[str, Any] = {"release": plan.release, "cases": 0}
    if cases:
        inputs = kept / "inputs" / f"{name}.jsonl.gz"
        with gzip.open(inputs, "wt", encoding="utf-8", compresslevel=3) as lines:
            lines.writelines(json.dumps(case) + "\n" for case in cases)
        part = kept / f"{name}.part"
        arguments = [str(inputs), str(part), "--executed", str(kept / "executed" / f"{name}.json")]
        log = kept / "logs" / f"{name}.txt"
        report = _asked([str(python), *WORKER, *arguments], log, name, len(cases), progress, stop)
        if report["release"] != plan.release:
            raise RecordingError(f"{python} has vLLM {report['release']}, not {plan.release}")
        part.replace(out / f"{name}.jsonl.gz")
        inputs.unlink()
    report["generating_seconds"] = round(made, 1)
    report["all_seconds"] = round(time.perf_counter() - started, 1)
    _report(kept, name).write_text(json.dumps(report, indent=1) + "\n")


def _asked(
    command: list[str], log: Path, name: str, count: int, progress: Progress, stop: threading.Event
) -> dict[str, Any]:
    """Run a worker to its end, and return its report."""
    progress(name, 0, count)
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    last: dict[str, Any] = {}
    with log.open("w") as errors:
        worker = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        with worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                if stop.is_set():
                    worker.terminate()
                if line.startswith("{"):
                    last = json.loads(line)
                    progress(name, last.get("asked", count), count)
    if worker.returncode or "cases" not in last:
        said = log.read_text().strip().splitlines()
        why = said[-1] if said else f"it ended with {worker.returncode}"
        raise RecordingError(f"{name}: the process that asks vLLM failed: {why} ({log})")
    return last
