"""The trace of a decision as ``explain`` prints it: one section for each step of the selection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from moe_rules.cli.render import answer, failure_lines, will_not_load
from moe_rules.cli.render import verdict_in_words as verdict
from moe_rules.engine.because import adjustment_in_words, because
from moe_rules.vocabulary.fact_values import in_words

if TYPE_CHECKING:
    from rich.console import Console

    from moe_rules.engine.decision import Decision
    from moe_rules.engine.explanation import Candidate
    from moe_rules.language.conditions import Failure
    from moe_rules.machines.machine import Machine

_STYLES = {"selected": "green", "eligible": "yellow", "rejected": "red"}
_MARKS = {"selected": "✓", "eligible": "○", "rejected": "✗"}


def print_trace(
    out: Console,
    subject: str,
    machine: Machine,
    notes: Iterable[str],
    decision: Decision,
    load_refusals: Iterable[str] = (),
    nearest: Iterable[str] = (),
) -> None:
    """Print every section of one decision; ``nearest`` are lines about what might change."""
    style = "red" if decision.failed else "green"
    out.print(f"[bold]{escape(subject)}[/]  (oracle {decision.oracle})")
    out.print(f"[bold {style}]{escape(answer(decision))}[/]  ({decision.how})")
    if not decision.failed:
        text, place = because(decision)
        out.print(f"because: {escape(text)}{_at(place.short)}")
    if decision.requested is not None:
        out.print(f"requested by: {escape(str(decision.requested))}")
    for reason in load_refusals:
        out.print(f"[red]{escape(will_not_load(reason))}[/]")
    for warning in decision.warnings:
        out.print(f"[yellow]warning:[/] {escape(warning)}")
    for note in notes:
        out.print(f"note: {escape(note)}")
    out.print(f"machine: {escape(machine.name)} ({escape(machine.source)})")
    _section(out, "Facts that mattered")
    out.print(facts_table(decision))
    _section(out, "Order")
    _print_order(out, decision)
    _section(out, "Candidates")
    for tree in candidate_trees(decision):
        out.print(tree)
    if nearest:
        _section(out, "Nearest: the least change after which a backend serves")
        for way in nearest:
            out.print(escape(way))
    if decision.unknown_facts:
        _section(out, "Unknown facts (no obstacle to a kernel, no reason for a rule)")
        out.print(", ".join(decision.unknown_facts))
    out.print(f"\nrules of {decision.platform}, fingerprint {decision.fingerprint}\n")


def _section(out: Console, title: str) -> None:
    out.print(f"\n[bold]{title}[/]")


def _at(place: object) -> str:
    return f"  [dim]({escape(str(place))})[/]"


def facts_table(decision: Decision) -> Table:
    """Facts that failed a clause or are tested by a rule that applied, and what tested them."""
    used: dict[str, list[str]] = {}
    for change in decision.adjustments:
        for name in change.when.fact_names():
            used.setdefault(name, []).append("the order")
    for candidate in decision.candidates:
        for failure in candidate.failures:
            for name in _names(failure):
                used.setdefault(name, []).append(candidate.kernel)
    table = Table(box=None, pad_edge=False)
    for title in ("fact", "value", "decided about"):
        table.add_column(title, overflow="fold")
    for name in [fact for fact in decision.facts if fact in used]:
        about = ", ".join(dict.fromkeys(used[name]))
        table.add_row(name, escape(in_words(decision.facts[name])), escape(about))
    if not table.row_count:
        first = "the first backend of the order serves the layer"
        table.add_row("none", "", first if decision.candidates else "no kernel was asked")
    return table


def _names(failure: Failure) -> list[str]:
    inner = [name for branch in failure.alternatives for f in branch for name in _names(f)]
    return inner or [failure.fact]


def _print_order(out: Console, decision: Decision) -> None:
    out.print(f"priority: {escape(', '.join(decision.priority) or 'none')}")
    for change in decision.adjustments:
        reason = change.reason
        why = f": {reason.text}" if reason.text else ""
        place = _at(reason.location.short)
        out.print(f"  {escape(adjustment_in_words(change))}{escape(why)}{place}")
        if reason.quirk:
            out.print(f"    quirk: {escape(reason.quirk)}")
    for removed in decision.removed:
        because = f": {removed.because}" if removed.because else ""
        out.print(f"  without {removed.backend}{escape(because)}{_at(removed.location.short)}")
    if fact := decision.variants_by:
        wanted = in_words(decision.facts[fact])
        for name, value in decision.other_variants:
            words = f"its {fact} is {in_words(value)}, wanted {wanted}"
            out.print(f"  without {name}: {escape(words)}")
    out.print(f"order: {escape(', '.join(decision.order) or 'none')}")


def candidate_trees(decision: Decision) -> list[Tree]:
    """One tree for each backend, in the order asked: its kernels, and what speaks against each."""
    trees: list[Tree] = []
    names: list[str] = []
    for candidate in decision.candidates:
        if candidate.backend not in names or names[-1] != candidate.backend:
            names.append(candidate.backend)
            trees.append(Tree(f"[bold]{escape(candidate.backend)}[/]"))
        _add_candidate(trees[-1], candidate)
    return trees or [Tree("none: the decision fell before any kernel was asked")]


def _add_candidate(tree: Tree, candidate: Candidate) -> None:
    style, mark = _STYLES[candidate.verdict], _MARKS[candidate.verdict]
    place = _at(candidate.location.short)
    reached = "" if candidate.reached else " (not reached)"
    branch = tree.add(
        f"[{style}]{mark} {escape(candidate.kernel)}[/]  {verdict(candidate)}{reached}{place}"
    )
    _add_failures(branch, candidate.failures)
    if candidate.unknown:
        branch.add(f"unknown: {', '.join(candidate.unknown)}")


def _add_failures(tree: Tree, failures: Iterable[Failure]) -> None:
    """A branch for each failed clause; below one of alternatives, one for each of those."""
    for failure in failures:
        branch = tree.add(escape(failure_lines([failure])[0]))
        for alternative in failure.alternatives:
            together = branch.add("all of these") if len(alternative) > 1 else branch
            _add_failures(together, alternative)
