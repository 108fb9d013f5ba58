"""Asks the vLLM that is installed what cases ask, in a process of its own for one platform.

Run in an environment with vLLM: ``python -m tools.record.worker INPUTS OUT [--executed FILE]``.
INPUTS are cases of one platform in lines of JSON, whose ``expect`` is not read; OUT gets them with
this release's answers, FILE which lines of vLLM were executed (by coverage.py). Every line of
its own output is JSON: how many cases are done, and at last what became of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.record import places, simulation
from tools.record.places import MEASURED

STEP = 250
"""Cases between two lines of progress."""


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The cases of a ``*.jsonl.gz`` file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def write(path: Path, cases: list[dict[str, Any]]) -> None:
    """Write cases, ordered by id, so that the same cases make the same file."""
    lines = sorted(json.dumps(case, separators=(",", ":")) + "\n" for case in cases)
    path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def answered(
    case: Mapping[str, Any], world: simulation.World, observer: Any, objects: Any
) -> tuple[dict[str, Any] | None, str | None]:
    """The case with what vLLM came to, or None and why there is no such deployment."""
    if case["oracle"] not in observer.oracles:
        return None, f"no oracle {case['oracle']}"
    try:
        world.set(case["software"], case["env"], objects.engine(case))
        args, options = objects.arguments(case)
    except Exception as error:  # whatever refuses it, no oracle is asked
        text = re.sub(r"\d+", "N", str(error).partition("\n")[0])
        return None, f"{type(error).__name__}: {text[:80]}"
    return {**case, "expect": observer.run(case["oracle"], args, options)}, None


def main() -> None:
    """Record the cases that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--executed", type=Path, help="a file for the lines that were executed")
    options = parser.parse_args()
    started = time.perf_counter()
    cases = list(read(options.inputs))
    world = simulation.start(cases[0]["platform"])
    from vllm import __version__

    from tools.record import objects
    from tools.record.observing import Observer

    observer = Observer()
    imported = time.perf_counter()
    coverage = _coverage() if options.executed else None
    done: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for number, case in enumerate(cases, start=1):
        answer, why = answered(case, world, observer, objects)
        if answer is not None:
            done.append(answer)
        else:
            left_out[str(why)] += 1
        if number % STEP == 0:
            print(json.dumps({"asked": number}), flush=True)
    if coverage is not None:
        coverage.stop()
        options.executed.write_text(json.dumps(_executed(coverage)))
    write(options.out, done)
    report = {
        "release": __version__,
        "package": str(_package()),
        "cases": len(done),
        "left_out": dict(left_out.most_common()),
        "kernels": _kernels(done),
        "missing": places.missing(),
        "oracles": list(observer.oracles),
        "import_seconds": round(imported - started, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(report), flush=True)


def _kernels(cases: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each kernel class said that it supports what was asked, and how often not."""
    counts: dict[str, Counter[str]] = {}
    for case in cases:
        for answer in (*case["expect"]["tried"], *case["expect"]["not_reached"]):
            if answer["kernel"] is not None:
                count = counts.setdefault(answer["kernel"], Counter())
                count["supports" if answer["supported"] else "refuses"] += 1
    return {name: dict(count) for name, count in sorted(counts.items())}


def _coverage() -> Any:
    """Coverage of vLLM's selection from here on: importing it decides nothing."""
    import coverage

    include = [str(_package() / pattern) for pattern in MEASURED]
    measured = coverage.Coverage(data_file=None, include=include, config_file=False)
    measured.start()
    return measured


def _executed(coverage: Any) -> dict[str, list[int]]:
    """The lines that were executed, by file below vLLM's package."""
    data = coverage.get_data()
    return {
        str(Path(file).relative_to(_package())): sorted(data.lines(file) or ())
        for file in data.measured_files()
    }


def _package() -> Path:
    import vllm

    return Path(vllm.__path__[0])


if __name__ == "__main__":
    main()
