"""Compares recordings: where two of them ask the same, they should have the same answers.

Cases are the same where all facts are, whatever their ids. Answers are compared whole, except for
vLLM's texts, which name versions and objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_rules.conformance.cases import Case, case_files, read_lines

_TEXTS = ("error_message", "reason")
SHOWN = 20


@dataclass
class Verdict:
    """How many cases two recordings share, and which of these they answer differently."""

    recorded: int = 0
    same: int = 0
    differing: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether some cases are shared and none is answered differently."""
        return self.same > 0 and not self.differing

    def text(self) -> str:
        """What was found, in lines."""
        differing = sum(self.differing.values())
        lines = [
            f"of {self.recorded} recorded cases, {self.same + differing} were asked again: "
            f"{self.same} equal, {differing} not"
        ]
        lines += [f"  {oracle}: {number}" for oracle, number in sorted(self.differing.items())]
        return "\n".join([*lines, *self.examples])


def compare(recorded: Iterable[Path], again: Iterable[Path]) -> Verdict:
    """Compare files or folders of recorded cases with those of another recording.

    Raises CaseError.
    """
    verdict = Verdict()
    answers = {key: (case, answer) for case, key, answer in _answers(recorded)}
    verdict.recorded = len(answers)
    for _, key, answer in _answers(again):
        if key not in answers:
            continue
        case, before = answers.pop(key)
        if answer == before:
            verdict.same += 1
            continue
        verdict.differing[case.oracle] += 1
        if len(verdict.examples) < SHOWN:
            names = [n for n in before.keys() | answer.keys() if before.get(n) != answer.get(n)]
            said = "; ".join(f"{n}: {before.get(n)} and {answer.get(n)}" for n in sorted(names))
            verdict.examples.append(f"{case.id} {case.platform_name} {case.oracle}: {said}")
    return verdict


def _answers(paths: Iterable[Path]) -> Iterator[tuple[Case, Hashable, Any]]:
    for path in case_files(paths):
        for number, line in read_lines(path):
            case = Case.parse(line, f"{path}:{number}")
            yield case, _facts(case, line), _without_texts(line["expect"])


def _facts(case: Case, line: Mapping[str, Any]) -> Hashable:
    """Everything that was asked; a device's name decides nothing."""
    facts = {**case.constants, **case.request}
    facts.pop("device_name")
    without_model = bool(line["runtime"].get("no_model_config"))
    return case.oracle, without_model, frozenset((n, type(v), v) for n, v in facts.items())


def _without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {n: _without_texts(v) for n, v in value.items() if n not in _TEXTS}
    return [_without_texts(v) for v in value] if isinstance(value, list) else value
