"""A model's layers in many deployments, each derived once for all machines that it is the same on.

What a derivation reads of the machine, and what it asks of the backend that the user requests, is
noted; another machine or request of which all of that is true has the same layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moe_rules.cli import deployment
from moe_rules.cli.deployment import Question
from moe_rules.cli.errors import UserError
from moe_rules.cli.model_files import ModelFiles
from moe_rules.cli.stated import Stated
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.tables import Tables

Layers = tuple[Question, ...]
Derived = Layers | CheckpointRefusedError | UserError
"""The kinds of layers, or why there is no answer."""

_ABSENT = object()


class _Facts(Mapping[str, Any]):
    """Facts of a machine that note which of them are read."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.read: dict[str, Any] = {}
        self._facts = facts

    def __getitem__(self, name: str) -> Any:
        self.read[name] = self._facts.get(name, _ABSENT)
        return self._facts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)


class _Request(str):
    """A request that notes what it is compared with."""

    __slots__ = ("asked",)
    asked: dict[tuple[str, Any], Any]

    def __new__(cls, name: str) -> _Request:
        made = super().__new__(cls, name)
        made.asked = {}
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self._noted("__eq__", str(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __contains__(self, part: Any) -> bool:
        return self._noted("__contains__", part)

    def startswith(self, *given: Any) -> bool:
        return self._noted("startswith", *given)

    def __hash__(self) -> int:
        """What looks it up by its hash knows it wholly."""
        self._noted("__eq__", str.__str__(self))
        return str.__hash__(self)

    def _noted(self, method: str, operand: Any) -> bool:
        found: bool = getattr(str, method)(self, operand)
        self.asked[method, operand] = found
        return found


@dataclass(frozen=True)
class _Remembered:
    """One derivation, and all that it depends on."""

    facts: Mapping[str, Any]
    asked: Mapping[tuple[str, Any], Any]
    derived: Derived

    def holds(self, facts: Mapping[str, Any], request: str) -> bool:
        """Whether it is that of another machine and request as well."""
        return all(facts.get(name, _ABSENT) == value for name, value in self.facts.items()) and all(
            getattr(str, method)(request, operand) == answer
            for (method, operand), answer in self.asked.items()
        )


class Derivations:
    """The layers of one model in one format.

    ``args`` are the options that are the same in all deployments, ``tables`` those of models.
    """

    def __init__(
        self, args: argparse.Namespace, stated: Stated, model: ModelFiles, tables: Tables
    ) -> None:
        self._args = args
        self._stated = stated
        self._model = model
        self._tables = tables
        self._known: dict[int, list[_Remembered]] = {}

    def layers(
        self, number: int, options: Mapping[str, Any], facts: Mapping[str, Any], request: str
    ) -> Derived:
        """The layers in the deployment of that ``number``, which has the ``options``.

        The same object where they are the same. Raises as ``deployment.questions_of`` does, save
        where the answer of the command is that vLLM refuses the checkpoint, or that a model cannot
        be deployed so.
        """
        known = self._known.setdefault(number, [])
        for one in known:
            if one.holds(facts, request):
                return one.derived
        noted, asked = _Facts(facts), _Request(request)
        known.append(_Remembered(noted.read, asked.asked, self._derive(options, noted, asked)))
        return known[-1].derived

    def _derive(self, options: Mapping[str, Any], facts: _Facts, request: _Request) -> Derived:
        groups = self._stated.groups
        stated = self._stated.replaced(
            groups={**groups, "request": {**groups["request"], "moe_backend": request}}
        )
        args = argparse.Namespace(**{**vars(self._args), **options})
        try:
            found = deployment.questions_of(args, facts, stated, self._model, tables=self._tables)
        except (CheckpointRefusedError, UserError) as error:
            return error
        return tuple(question.with_notes(stated.notes()) for question in found)
