"""The tables of a report's data: what repeats is stored once, and referred to by its position.

Decisions in, positions out; :meth:`Tables.plain` is what :mod:`~moe_rules.reporting.report.schema`
describes. Empty and usual values are left out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from moe_rules.engine.because import because
from moe_rules.engine.decision import Decision
from moe_rules.engine.explanation import Weighing
from moe_rules.files.problems import Location
from moe_rules.language.conditions import Failure
from moe_rules.language.rules import Adjustment, Requested
from moe_rules.selectors.ranges import TokenRange
from moe_rules.vocabulary.fact_values import FactValue, plain
from moe_rules.vocabulary.facts import FACTS

Groups = dict[str, int]
"""The facts of one layer: the position of each group's facts, by group of the vocabulary."""

DERIVED = "derived"
"""The group of facts that follow from others."""


class Table:
    """Values in the order in which they came, each once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._positions: dict[str, int] = {}

    def add(self, value: Any) -> int:
        """The position of a value of JSON."""
        key = value if isinstance(value, str) else json.dumps(value)
        found = self._positions.get(key)
        if found is None:
            found = self._positions[key] = len(self.values)
            self.values.append(value)
        return found


class Tables:
    """Everything that decisions have in common. ``file_name`` says what a file is called."""

    NAMES = (
        "answers", "runs", "outcomes", "facts", "fact_groups", "decisions", "orders", "weighed",
        "standings", "results", "reasons", "failures", "places", "strings",
    )  # fmt: skip

    def __init__(self, file_name: Callable[[str], str]) -> None:
        self._file_name = functools.cache(file_name)
        self.tables = {name: Table() for name in self.NAMES}
        self._weighed: dict[int, tuple[Weighing, int | None]] = {}

    def plain(self) -> dict[str, list[Any]]:
        """All tables by name."""
        return {name: table.values for name, table in self.tables.items()}

    def string(self, text: str) -> int:
        """The position of a text."""
        return self.tables["strings"].add(text)

    def strings(self, texts: Iterable[str]) -> list[int]:
        """The positions of texts."""
        return [self.string(text) for text in texts]

    def runs(self, values: Iterable[int | None]) -> int:
        """The position of a list of positions, of which many follow their like."""
        found: list[Any] = []
        for value in values:
            if found and found[-2] == value:
                found[-1] += 1
            else:
                found += [value, 1]
        return self.tables["runs"].add(found)

    def decision(
        self, decision: Decision, nearest: Iterable[str] = (), ranges: Sequence[TokenRange] = ()
    ) -> int:
        """The position of a decision, without its facts.

        ``nearest`` are lines of least changes, ``ranges`` what serves calls of each size.
        """
        reason = decision.reason
        why = None
        if not decision.failed:
            text, place = because(decision)
            why = self._reason(text, place, None)
        requested = decision.requested
        error = decision.error
        asked, rest = (self._all_weighed(part) for part in decision.weighed)
        places = {name: place for place, name in enumerate(decision.order)}
        order = sorted([*asked, *rest], key=lambda one: places.get(one[0], len(places)))
        because_of = (
            None if reason is None else self._reason(reason.text, reason.location, reason.quirk)
        )
        result = {
            "how": self.string(decision.how),
            "backend": self._optional(decision.backend),
            "kernel": self._optional(decision.kernel),
            "because": because_of,
            "why": why,
        }
        standing = {
            "order": self._order(decision),
            "weighed": [position for _, position in order],
        }
        more = {
            "requested": None if requested is None else self._requested(requested),
            "error": None if error is None else self.strings(error.split("\n")),
            "warnings": self.strings(decision.warnings),
            "unknown_facts": self.strings(decision.unknown_facts),
            "by_num_tokens": [one.to_dict() for one in ranges],
            "nearest": self.strings(nearest),
        }
        return self.tables["decisions"].add(
            [
                self.tables["results"].add(_said(result)),
                self.tables["standings"].add(_said(standing)),
                [position for _, position in asked],
                _said(more),
            ]
        )

    def facts(self, facts: Mapping[str, FactValue]) -> Groups:
        """The positions of the groups that facts fall into."""
        groups: dict[str, dict[str, Any]] = {}
        for name in sorted(facts):
            known = FACTS.get(name)
            group = DERIVED if known is None else known.group
            groups.setdefault(group, {})[name] = plain(facts[name])
        table = self.tables["fact_groups"]
        return {group: table.add(values) for group, values in groups.items()}

    def changed_facts(self, groups: Groups, changes: Mapping[str, FactValue]) -> Groups:
        """The groups of facts of which some have other values."""
        table = self.tables["fact_groups"]
        found = dict(groups)
        for name, value in changes.items():
            known = FACTS.get(name)
            group = DERIVED if known is None else known.group
            before = table.values[found[group]] if group in found else {}
            after = {**before, name: plain(value)}
            found[group] = table.add({key: after[key] for key in sorted(after)})
        return found

    def answers(
        self,
        outcomes: Sequence[int],
        decisions: Sequence[Sequence[int | None]],
        facts: Sequence[Sequence[Groups]],
    ) -> int:
        """The position of a cell's answers: what comes of each deployment.

        ``decisions`` and ``facts`` have an entry for each kind of layer. Groups of facts that are
        the same throughout are stated once.
        """
        all_groups = [groups for layers in facts for groups in layers]
        fixed = {
            name: position
            for name, position in (all_groups[0].items() if all_groups else ())
            if all(groups.get(name) == position for groups in all_groups)
        }
        rows = self.tables["facts"]
        varying = [
            rows.add([[g for name, g in groups.items() if name not in fixed] for groups in layers])
            for layers in facts
        ]
        entry = {
            "outcomes": self.runs(outcomes),
            "decisions": [self.runs(kind) for kind in zip(*_filled(decisions), strict=True)],
            "facts": self.runs(varying),
            "fixed": [*fixed.values()],
        }
        return self.tables["answers"].add(entry)

    # Parts of a decision -----------------------------------------------------------------------

    def _optional(self, text: str | None) -> int | None:
        return None if text is None else self.string(text)

    def _requested(self, requested: Requested) -> dict[str, Any]:
        place = requested.location
        named = place.replaced(file=self._file_name(place.file))
        return requested.replaced(location=named).to_dict()

    def _place(self, location: Location) -> int:
        file = self.string(self._file_name(location.file))
        return self.tables["places"].add([file, location.line, location.column])

    def _reason(self, *parts: Any) -> int:
        return self.tables["reasons"].add(self._because(*parts))

    def _because(
        self, text: str | None, location: Location | None, quirk: str | None
    ) -> dict[str, Any]:
        return _said(
            {
                "text": self._optional(text),
                "at": None if location is None else self._place(location),
                "quirk": self._optional(quirk),
            }
        )

    def _order(self, decision: Decision) -> int:
        removed = [
            _said(
                {
                    "backend": self.string(one.backend),
                    "because": self._optional(one.because),
                    "at": self._place(one.location),
                }
            )
            for one in decision.removed
        ]
        found = {
            "priority": self.strings(decision.priority),
            "adjusted": [self._adjusted(change) for change in decision.adjustments],
            "removed": removed,
            "order": self.strings(decision.order),
        }
        return self.tables["orders"].add(_said(found))

    def _adjusted(self, change: Adjustment) -> dict[str, Any]:
        return _said(
            {
                "action": self.string(change.action),
                "backends": self.strings(change.names),
                "anchor": self._optional(change.anchor),
                **self._because_of(change),
            }
        )

    def _because_of(self, change: Adjustment) -> dict[str, Any]:
        reason = change.reason
        said = self._because(reason.text, reason.location, reason.quirk)
        return {"because": said.pop("text", None), **said}

    def _all_weighed(self, weighed: Iterable[Weighing]) -> list[tuple[str, int]]:
        """The names and positions of backends that have kernels to speak of."""
        found = [(one.backend.name, self._weighing(one)) for one in weighed]
        return [(name, position) for name, position in found if position is not None]

    def _weighing(self, one: Weighing) -> int | None:
        known = self._weighed.get(id(one))
        if known is None:
            entry = {
                "backend": self.string(one.backend.name),
                "kernels": [
                    _said(
                        {
                            "kernel": self.string(kernel.class_name),
                            "failures": [self._failure(f) for f in (*one.against, *failures)],
                            "unknown": self.strings(unknown),
                            "at": self._place(kernel.location),
                        }
                    )
                    for kernel, failures, unknown in one.kernels
                ],
            }
            position = self.tables["weighed"].add(entry) if one.kernels else None
            known = self._weighed[id(one)] = (one, position)
        return known[1]

    def _failure(self, failure: Failure) -> int:
        found = {
            "code": self.string(failure.code),
            "fact": self.string(failure.fact),
            "seen": self.string(failure.seen),
            "wanted": self.string(failure.wanted),
            "at": self._place(failure.location),
            "alternatives": [[self._failure(f) for f in branch] for branch in failure.alternatives],
        }
        return self.tables["failures"].add(_said(found))


def _filled(rows: Sequence[Sequence[int | None]]) -> list[list[int | None]]:
    """Rows of one length, with None where one is shorter."""
    most = max(map(len, rows), default=0)
    return [[*row, *[None] * (most - len(row))] for row in rows]


def _said(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without what it does not say."""
    return {name: value for name, value in entry.items() if value is not None and value != []}
