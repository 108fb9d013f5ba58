"""Decisions in words and tables, for a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from moe_rules.engine.because import because

if TYPE_CHECKING:
    from rich.console import Console

    from moe_rules.engine.decision import Decision
    from moe_rules.engine.explanation import Candidate
    from moe_rules.language.conditions import Failure

UNLIMITED = 1_000_000
"""Columns where no terminal limits them: more than any line has, so that none is cut or wrapped."""


def console(stream: TextIO | None = None) -> Console:
    """A rich console: colours and lines that wrap at the terminal's width, on a terminal only."""
    from rich.console import Console

    class PlainlyBroken(Console):
        """A console that leaves it to the command line what a broken pipe comes to."""

        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError that rich is about to handle

    stream = stream or sys.stdout
    terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
    return PlainlyBroken(
        file=stream,
        highlight=False,
        width=None if terminal else UNLIMITED,
        no_color=not terminal or "NO_COLOR" in os.environ,
        force_terminal=terminal,
        soft_wrap=not terminal,
    )


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if that is a terminal; gives what moves it on by one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def note(text: str) -> None:
    """Say on standard error what a long command is about to do, terminal or not."""
    print(f"moe-rules: {text}", file=sys.stderr, flush=True)


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart; the last one is not padded."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]).rstrip()
        for row in table
    )
    return "\n".join(lines)


def listed(names: Sequence[str], most: int | None = None) -> str:
    """Names in words: "a, b and c"; of more than ``most``, those and how many more there are."""
    shown = [*names[:most]]
    if len(shown) < len(names):
        shown.append(f"{len(names) - len(shown)} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def at_places(pairs: Iterable[tuple[str, str]], most: int | None = None) -> str:
    """Places and what is there, as "a and b on x, y and z; c on w"; a place alone with "" there.

    What is at the same places is told together; ``most`` as in :func:`listed`.
    """
    places: dict[str, dict[str, None]] = {}
    for place, thing in pairs:
        places.setdefault(thing, {})[place] = None
    things: dict[tuple[str, ...], list[str]] = {}
    for thing, some in places.items():
        things.setdefault(tuple(some), []).append(thing)
    return "; ".join(
        " on ".join(filter(None, (listed(names, most), listed(some, most))))
        for some, names in things.items()
    )


def answer(decision: Decision) -> str:
    """Backend and kernel, or that nothing serves."""
    if decision.failed:
        return "no backend serves"
    return f"{decision.backend} / {kernel_name(decision.kernel, decision.how)}"


def kernel_name(kernel: str | None, how: str) -> str:
    """The kernel, or what it means that there is none."""
    return kernel or ("no kernel" if how == "fallback" else "the platform's own code")


def decision_lines(
    subject: str, decision: Decision, notes: Iterable[str] = (), load_refusals: Iterable[str] = ()
) -> list[str]:
    """A decision in short: the answer, why, and what a user should know."""
    lines = [f"{subject}:", f"  {answer(decision)}  (oracle {decision.oracle}, {decision.how})"]
    if not decision.failed:
        text, place = because(decision)
        lines.append(f"  because: {text}  ({place.short})")
    if decision.requested is not None:
        lines.append(f"  requested by: {decision.requested}")
    lines += [f"  {will_not_load(reason)}" for reason in load_refusals]
    lines += [f"  warning: {warning}" for warning in decision.warnings]
    if decision.unknown_facts:
        names = ", ".join(decision.unknown_facts)
        lines.append(f"  unknown, so no obstacle to a kernel and no reason for a rule: {names}")
    return [*lines, *(f"  note: {note}" for note in notes)]


def will_not_load(reason: str) -> str:
    """That vLLM refuses a layer when it loads the weights, although a backend was selected."""
    return f"will not load: {reason}"


def failure_lines(failures: Iterable[Failure], indent: str = "") -> list[str]:
    """One line for each failed clause; alternatives of an ``any`` below it."""
    lines = []
    for failure in failures:
        if not failure.alternatives:
            lines.append(
                f"{indent}{failure.code}: {failure.fact} is {failure.seen}, "
                f"wanted {failure.wanted}  ({failure.location.short})"
            )
            continue
        lines.append(f"{indent}{failure.code}: none of these holds  ({failure.location.short})")
        for branch in failure.alternatives:
            first, *rest = failure_lines(branch, indent + "    ") or [""]
            lines.append(f"{indent}  - {first.strip()}")
            lines.extend(rest)
    return lines


def verdict_in_words(candidate: Candidate) -> str:
    """What became of a candidate."""
    if candidate.verdict == "rejected":
        count = len(candidate.failures)
        return f"cannot serve: {count} clause{'s' if count > 1 else ''} failed"
    if candidate.verdict == "eligible":
        return "could serve" if candidate.reached else "could serve, stands behind"
    return "selected"
