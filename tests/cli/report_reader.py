"""Reads the data of a report as its page does: what explain says of a cell, from the tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def data_of(page: Path) -> dict[str, Any]:
    """The block of data in a page."""
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.S
    )
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


class Reader:
    """What a report says, as explain would."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def outcome(
        self, cell: dict[str, Any], deployment: int, request: str, side: str = "after"
    ) -> Any:
        """The layers of a cell as ``explain --format json`` prints them, or a text why not."""
        answers = self.data["answers"][cell[side][request]]
        outcome = self.data["outcomes"][self._at(answers["outcomes"], deployment)]
        for reason in ("refused", "invalid"):
            if reason in outcome:
                return self._text(outcome[reason])
        facts = self.data["facts"][self._at(answers["facts"], deployment)]
        layers = []
        for kind, layer in enumerate(outcome["layers"]):
            decision = self._at(answers["decisions"][kind], deployment)
            groups = [*answers["fixed"], *facts[kind]]
            layers.append(self._layer(cell, layer, decision, groups, side))
        return layers[0] if len(layers) == 1 else layers

    def _layer(
        self,
        cell: dict[str, Any],
        layer: dict[str, Any],
        position: int | None,
        groups: list[int],
        side: str,
    ) -> dict[str, Any]:
        machine = self.data["machines"][cell["machine"]]["record"]
        runs = layer["layers"]
        about = {
            "model": self.data["models"][cell["model"]]["name"],
            "layers": [
                i for a, b in zip(runs[::2], runs[1::2], strict=True) for i in range(a, b + 1)
            ],
            "machine": machine,
            "notes": self._texts(layer, "notes"),
            "load_refusals": self._texts(layer, "load_refusals"),
            "by_num_tokens": [],
        }
        if position is None:
            return {**about, "oracle": None, "backend": None, "kernel": None, "error": None}
        result_id, standing_id, asked, more = self.data["decisions"][position]
        result = self.data["results"][result_id]
        standing = self.data["standings"][standing_id]
        order = self.data["orders"][standing["order"]]
        error = "\n".join(self._texts(more, "error")) if "error" in more else None
        facts = {n: v for g in groups for n, v in self.data["fact_groups"][g].items()}
        backend = self._optional(result, "backend")
        return {
            **about,
            "version": self.data["format_version"],
            "oracle": self._optional(layer, "oracle"),
            "platform": machine["platform"]["device"],
            "backend": backend,
            "kernel": self._optional(result, "kernel"),
            "how": self._optional(result, "how"),
            "because": self._reason(result.get("because")),
            "requested": more.get("requested"),
            "error": error,
            "priority": self._texts(order, "priority"),
            "order": self._texts(order, "order"),
            "adjusted": [self._adjusted(one) for one in order.get("adjusted", [])],
            "removed": [
                {
                    "backend": self._text(one["backend"]),
                    "because": self._optional(one, "because"),
                    "at": self._place(one["at"]),
                }
                for one in order.get("removed", [])
            ],
            "candidates": self._candidates(
                asked, standing.get("weighed", []), None if error else backend
            ),
            "warnings": self._texts(more, "warnings"),
            "unknown_facts": self._texts(more, "unknown_facts"),
            "by_num_tokens": more.get("by_num_tokens", []),
            "facts": dict(sorted(facts.items())),
            "rules": self.data[side]["fingerprints"][cell["machine"]],
        }

    def _candidates(
        self, asked: list[int], standing: list[int], backend: str | None
    ) -> list[dict[str, Any]]:
        weighed = self.data["weighed"]
        names = {weighed[one]["backend"] for one in asked}
        rest = [one for one in standing if weighed[one]["backend"] not in names]
        found = []
        for position, reached in [*((one, True) for one in asked), *((one, False) for one in rest)]:
            name = self._text(weighed[position]["backend"])
            done = False
            for kernel in weighed[position]["kernels"]:
                failures = [self._failure(one) for one in kernel.get("failures", [])]
                chosen = reached and not done and name == backend and not failures
                verdict = "selected" if chosen else "rejected" if failures else "eligible"
                found.append(
                    {
                        "backend": name,
                        "kernel": self._text(kernel["kernel"]),
                        "verdict": verdict,
                        "reached": reached and not done,
                        "failures": failures,
                        "unknown": self._texts(kernel, "unknown"),
                        "at": self._place(kernel["at"]),
                    }
                )
                done = done or chosen
        return found

    def _adjusted(self, one: dict[str, Any]) -> dict[str, Any]:
        return {
            "action": self._text(one["action"]),
            "backends": self._texts(one, "backends"),
            "anchor": self._optional(one, "anchor"),
            "because": self._optional(one, "because"),
            "quirk": self._optional(one, "quirk"),
            "at": self._place(one["at"]),
        }

    def _failure(self, position: int) -> dict[str, Any]:
        failure = self.data["failures"][position]
        found: dict[str, Any] = {
            name: self._text(failure[name]) for name in ("code", "fact", "seen", "wanted")
        }
        found["at"] = self._place(failure["at"])
        if "alternatives" in failure:
            found["alternatives"] = [
                [self._failure(one) for one in branch] for branch in failure["alternatives"]
            ]
        return found

    def _reason(self, position: int | None) -> dict[str, Any] | None:
        if position is None:
            return None
        reason = self.data["reasons"][position]
        return {
            "text": self._optional(reason, "text"),
            "at": self._place(reason["at"]),
            "quirk": self._optional(reason, "quirk"),
        }

    def _place(self, position: int) -> str:
        file, line, column = self.data["places"][position]
        parts = [self._text(file), *([line] if line else []), *([column] if column else [])]
        return ":".join(map(str, parts))

    def _at(self, runs: int, deployment: int) -> Any:
        flat = self.data["runs"][runs]
        for value, count in zip(flat[::2], flat[1::2], strict=True):
            if deployment < count:
                return value
            deployment -= count
        raise IndexError(deployment)

    def _text(self, position: int) -> str:
        text: str = self.data["strings"][position]
        return text

    def _texts(self, entry: dict[str, Any], name: str) -> list[str]:
        return [self._text(one) for one in entry.get(name, [])]

    def _optional(self, entry: dict[str, Any], name: str) -> str | None:
        return self._text(entry[name]) if entry.get(name) is not None else None
