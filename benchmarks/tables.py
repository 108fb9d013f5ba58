"""The tables of published results from the results of runs: ``python -m benchmarks.tables DIR...``.

Every DIR is the ``--out`` of a run of ``moe-rules bench``. ``--out FILE`` gets a table of all
schemes and every run's own tables; ``--readme FILE`` gets the table between its two marks. Nothing
in them is typed by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from moe_kernels.benchmark.peers import OURS
from moe_kernels.benchmark.report import BEST, PICK, Results, geometric_mean, markdown

from moe_rules.cli.benchmarked import measured_plan, picks, read_results
from moe_rules.cli.errors import UserError

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
"""What is between them ``--readme`` replaces."""
ROUTING = "uniform"
"""The routing that is summed up."""


def read(folder: Path) -> Results:
    """A run's results with what vLLM picks. Raises UserError."""
    results = read_results(folder)
    if not results.picks:
        results.picks = picks(measured_plan(results), results.run["device"])
    return results


def _spread(values: Sequence[float]) -> list[str]:
    if not values:
        return ["", ""]
    return [f"{geometric_mean(values):.2f}", f"{min(values):.2f}-{max(values):.2f}"]


def summary(runs: Sequence[Results]) -> Iterator[str]:
    """A row per scheme: what vLLM picks, and times of that and of the fastest peer over ours."""
    header = ["format", "vLLM picks", "its time over ours", "range", "points"]
    header += ["fastest peer's", "range", "peers"]
    yield _row(header)
    yield "|" + " --- |" * len(header)
    for scheme in dict.fromkeys(m.scheme for results in runs for m in results.measurements):
        points = [row for results in runs for row in results.ratios().items()]
        rows = [row for p, row in points if (p.scheme, p.routing) == (scheme, ROUTING)]
        picked = dict.fromkeys(p.backend for r in runs for p in r.picks if p.scheme == scheme)
        names = sorted({name for row in rows for name in row} - {BEST, PICK})
        against_pick = [row[PICK] for row in rows if PICK in row]
        against_best = [row[BEST] for row in rows if BEST in row]
        cells = [scheme.replace("_", " "), ", ".join(picked), *_spread(against_pick)]
        cells += [f"{len(against_pick)} of {len(rows)}", *_spread(against_best)]
        yield _row([*cells, ", ".join(names)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def document(title: str, note: str, runs: Sequence[Results]) -> Iterator[str]:
    """The summary, and every run's tables."""
    yield from (f"# {title}", "")
    if note:
        yield from (note, "")
    yield from summary(runs)
    for results in runs:
        schemes = dict.fromkeys(m.scheme for m in results.measurements)
        yield from ("", f"## {', '.join(scheme.replace('_', ' ') for scheme in schemes)}", "")
        yield from markdown(results)
        yield from launches(results)


def launches(results: Results) -> Iterator[str]:
    """A row per point: the launches of our kernel's call, where the run recorded them.

    With an early start a launch's time includes its wait for the one before.
    """
    parts: dict[tuple[str, str, str, int], list[str]] = {}
    for one in results.launches:
        if one.kernel == OURS:
            point = (one.scheme, one.shape, one.routing, one.num_tokens)
            name = one.name.strip("_").removesuffix("_kernel")
            parts.setdefault(point, []).append(f"{name} {one.us:.1f}")
    if parts:
        yield from (
            "",
            "Launches of one of our calls, in us, each with its wait for the one before:",
            "",
        )
        yield from (
            "| scheme | shape | routing | M | launches |",
            "| --- | --- | --- | --- | --- |",
        )
        for point, names in sorted(parts.items()):
            yield _row([*map(str, point), ", ".join(names)])


def replaced(text: str, lines: Iterator[str]) -> str:
    """``text`` with ``lines`` between its marks. Raises UserError where they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"the file has no lines {BEGIN} and {END}")
    return "\n".join([before + begin, *lines, end + after])


def main() -> None:
    """Read, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown with all tables")
    parser.add_argument("--title", default="Layers against the kernels that vLLM picks")
    parser.add_argument(
        "--note", default="", metavar="TEXT", help="below the title: commit, command"
    )
    parser.add_argument("--readme", type=Path, metavar="FILE", help="gets the summary")
    args = parser.parse_args()
    try:
        runs = [read(folder) for folder in args.folders]
        if args.out:
            args.out.write_text("\n".join(document(args.title, args.note, runs)) + "\n")
        if args.readme:
            args.readme.write_text(replaced(args.readme.read_text(), summary(runs)))
    except (UserError, OSError) as error:
        parser.error(str(error))
    print("\n".join(summary(runs)))


if __name__ == "__main__":
    main()
