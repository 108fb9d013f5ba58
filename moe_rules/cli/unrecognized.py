"""What is said of a word of a command line that its command does not take."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from moe_rules.cli.errors import UserError

Parsers = Mapping[str, argparse.ArgumentParser]


def unrecognized_error(
    words: Sequence[str], unrecognized: Sequence[str], parser: argparse.ArgumentParser
) -> UserError:
    """What to tell the user of the first of some words; ``parser`` is that of all commands."""
    commands = _commands(parser)
    name = next((word for word in words if word in commands), "")
    command = f"{parser.prog} {name}".rstrip()
    known = commands.get(name, parser)._option_string_actions
    word, _, value = unrecognized[0].partition("=")
    if not word.startswith("-"):
        hint = _by_value(unrecognized[0], known) or f"; {command} --help has what it takes"
        return UserError(f"{name or command} takes no {unrecognized[0]!r}{hint}")
    if not value:
        place = list(words).index(unrecognized[0]) + 1
        value = words[place] if place < len(words) else ""
    hint = (
        _by_name(word, known)
        or _by_value(value, known)
        or f"{_others(word, commands)}; {command} --help lists them"
    )
    return UserError(f"{name or command} has no option {word}{hint}")


def unknown_command_error(word: str, commands: Sequence[str]) -> UserError:
    """What to tell the user of a command that there is not."""
    from moe_rules.vocabulary.fact_values import did_you_mean

    rest = f" (one of {', '.join(commands)}); moe-rules --help says what each does"
    return UserError(f"there is no command {word!r}{did_you_mean(word, commands) or rest}")


def _commands(parser: argparse.ArgumentParser) -> Parsers:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def _by_value(value: str, known: Mapping[str, argparse.Action]) -> str:
    """The option that takes what was given, if it is a machine or a kind of device."""
    from moe_rules.cli.narrowing import is_machine
    from moe_rules.machines.machine import named_machines
    from moe_rules.vocabulary.table_names import PLATFORMS

    if value in PLATFORMS and "--platform" in known:
        return f"; {value} is a kind of device: --platform {value}"
    if value in PLATFORMS and "--machine" in known:
        machines = [m.name for m in named_machines().values() if m.platform["device"] == value]
        named = f" (machines of it: {', '.join(machines)})" if machines else ""
        return f"; {value} is a kind of device, and --machine takes a machine{named}"
    if value and not value.startswith("-") and "--machine" in known and is_machine(value):
        return f"; {value} is a machine: --machine {value}"
    return ""


def _others(word: str, commands: Parsers) -> str:
    """The commands that have an option of this very name."""
    others = [name for name, one in commands.items() if word in one._option_string_actions]
    return f" (others have it: {', '.join(others)})" if others else ""


def _by_name(word: str, known: Mapping[str, argparse.Action]) -> str:
    """The nearest option."""
    from moe_rules.vocabulary.fact_values import nearest

    # Without the dashes, which make all options look alike.
    close = nearest(word.lstrip("-"), (option.lstrip("-") for option in known))
    return f"; did you mean --{close}?" if close else ""
