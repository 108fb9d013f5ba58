"""What is said of a word of a command line that its command does not take."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from moe_rules.cli.errors import UserError


def unrecognized_error(
    words: Sequence[str], unrecognized: Sequence[str], parser: argparse.ArgumentParser
) -> UserError:
    """What to tell the user of the first of some words; ``parser`` is that of all commands."""
    commands = _commands(parser)
    command = next(word for word in words if word in commands)
    known = commands[command]._option_string_actions
    word, _, value = unrecognized[0].partition("=")
    if not word.startswith("-"):
        hint = (
            _by_value(unrecognized[0], known) or f"; moe-rules {command} --help has what it takes"
        )
        return UserError(f"{command} takes no {unrecognized[0]!r}{hint}")
    if not value:
        place = list(words).index(unrecognized[0]) + 1
        value = words[place] if place < len(words) else ""
    return UserError(
        f"{command} has no option {word}"
        + (_by_value(value, known) or _by_name(word, command, commands))
    )


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    (subparsers,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return subparsers.choices


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


def _by_name(word: str, command: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """The nearest option, and the commands that have one of this very name."""
    from moe_rules.vocabulary.fact_values import nearest

    others = [name for name, one in commands.items() if word in one._option_string_actions]
    where = f", which is one of {', '.join(others)}" if others else ""
    # Without the dashes, which make all options look alike.
    close = nearest(
        word.lstrip("-"), (one.lstrip("-") for one in commands[command]._option_string_actions)
    )
    hint = f"; did you mean --{close}?" if close else f"; moe-rules {command} --help lists them"
    return f"{where}{hint}"
