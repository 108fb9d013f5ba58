"""Facts that a user states on the command line, by the vocabulary's groups."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from moe_rules.cli.errors import UserError
from moe_rules.vocabulary.record import Record

if TYPE_CHECKING:
    from moe_rules.language.rules import PlatformRules
    from moe_rules.vocabulary.fact_values import FactValue


class Stated(Record):
    """Facts from ``--set`` and the options that stand for one, by group of the vocabulary.

    ``switches`` are those of the environment and of ``--set``; one of the environment may be
    unreadable. ``names`` are the facts that the command line states.
    """

    groups: Mapping[str, Mapping[str, FactValue]]
    switches: Mapping[str, FactValue]
    names: tuple[str, ...]

    @classmethod
    def read(cls, args: argparse.Namespace) -> Stated:
        """Raises FactError or UserError for what is no fact, or not a value of it."""
        from moe_rules.vocabulary.fact_values import parse_value
        from moe_rules.vocabulary.facts import FACTS
        from moe_rules.vocabulary.switches import SWITCHES, switches_from_environ

        pairs = [_pair(text) for text in args.set]
        options = {
            "moe_backend": args.moe_backend,
            "weight_key": args.weight,
            "activation_key": args.activation_key,
        }
        pairs += [(name, text) for name, text in options.items() if text is not None]
        groups: dict[str, dict[str, FactValue]] = {fact.group: {} for fact in FACTS.values()}
        for name, text in pairs:
            fact = FACTS.get(name)
            if fact is None:
                raise _no_such_fact(name)
            groups[fact.group][name] = parse_value(fact, _raw(name, text))
        switches = switches_from_environ(os.environ)
        switches |= {n: groups["request"].pop(n) for n in SWITCHES if n in groups["request"]}
        return cls(groups, switches, tuple(name for name, _ in pairs))

    def refuse_withdrawn(self, rules: PlatformRules) -> None:
        """Raise UserError for a fact that the rules' release does not have."""
        for name in self.names:
            reason = rules.withdrawn.get(name)
            if reason is not None:
                raise UserError(f"{name} is no fact here: {reason.text} ({reason.location})")

    def beside_layer(self) -> dict[str, FactValue]:
        """Stated facts that are no part of the layer's configuration, and no switches."""
        return {**self.groups["quantization"], **self.groups["request"]}

    def notes(self) -> tuple[str, ...]:
        """What to know about unreadable switches, if a decision falls without them."""
        from moe_rules.vocabulary.readings import Unreadable

        return tuple(
            f"{value.error}; no rule asked for it, but vLLM reads every variable once its engine "
            "has started, and ends there"
            for value in self.switches.values()
            if isinstance(value, Unreadable)
        )

    def environ(self) -> dict[str, str]:
        """The switches as an environment that says the same."""
        from moe_rules.vocabulary.fact_values import plain

        words = {name: plain(value) for name, value in self.switches.items() if value is not None}
        return {n: str(int(word)) if isinstance(word, bool) else word for n, word in words.items()}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: write it as FACT=VALUE")
    return name.strip(), value.strip()


def _raw(name: str, text: str) -> object:
    """A value as it is parsed; a quantization key may be written as JSON."""
    if not text.startswith("{"):
        return text
    import json

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: not JSON: {error}") from None


def _no_such_fact(name: str) -> UserError:
    from moe_rules.language.reading import vocabulary
    from moe_rules.vocabulary.fact_values import did_you_mean
    from moe_rules.vocabulary.facts import FACTS

    if name in vocabulary().derived:
        return UserError(f"{name} follows from other facts (moe-rules facts); state those")
    return UserError(f"there is no fact {name!r}{did_you_mean(name, FACTS)}")
