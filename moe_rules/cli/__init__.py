"""The command line ``moe-rules``: one module per command under :mod:`moe_rules.cli.commands`.

Every command module has ``add_parser(subparsers)`` and ``run(args) -> int``, and imports what it
needs when it runs, so that ``--help`` is answered without loading the rules.

Exit codes: 0 done, 1 the answer is no (nothing serves, findings, disagreement), 2 wrong input,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from moe_rules.cli.errors import NoMoELayersError, UserError, message_of
from moe_rules.version import __version__

COMMANDS = (
    "select",
    "explain",
    "why_not",
    "nearest",
    "run",
    "tune",
    "bench",
    "matrix",
    "report",
    "detect",
    "facts",
    "list",
    "check",
    "verify",
    "test",
    "diff",
    "upgrade",
    "prove",
    "set_priority",
    "drift",
    "schema",
    "conformance",
)
"""Modules of the commands, in the order in which ``--help`` lists them."""

BROKEN_PIPE = 141
INTERRUPTED = 130


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of all commands; of one alone where ``words`` begin with its name."""
    parser = argparse.ArgumentParser(
        prog="moe-rules",
        description="Which Mixture-of-Experts kernel serves a layer on a machine, and why.",
        epilog="example: moe-rules explain --model config.json --machine h100 --tp 8",
    )
    parser.add_argument("--version", action="version", version=f"moe-rules {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = [name for name in COMMANDS if [_word(name)] == list(words[:1])]
    for name in asked or COMMANDS:
        importlib.import_module(f"moe_rules.cli.commands.{name}").add_parser(subparsers)
    return parser


def _word(name: str) -> str:
    """The command that a module is for, as users write it."""
    return name.replace("_", "-")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if sys.stderr is None:  # closed, as by 2>&-: nobody wants to know
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        return _fail("standard output is closed, so that no answer can be given", 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack the signs that we draw with
    args = argparse.Namespace()
    try:
        code = _run(sys.argv[1:] if argv is None else argv, args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_output()  # whoever read it has enough
        return BROKEN_PIPE
    except NoMoELayersError as answer:
        print(answer.as_json() if getattr(args, "format", "text") == "json" else answer)
        return 0
    except UserError as error:
        return _fail(str(error), error.code)
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        if isinstance(error, OSError) and error.filename is None:
            _give_up_output()
        return _fail(message, 2)
    return code


def _run(words: Sequence[str], args: argparse.Namespace) -> int:
    """Parse a command line into ``args`` and run its command."""
    if words and not words[0].startswith("-") and words[0] not in map(_word, COMMANDS):
        from moe_rules.cli.unrecognized import unknown_command_error

        raise unknown_command_error(words[0], [_word(name) for name in COMMANDS])
    try:
        _, unrecognized = build_parser(words).parse_known_args(words, args)
        if unrecognized:
            from moe_rules.cli.unrecognized import unrecognized_error

            raise unrecognized_error(words, unrecognized, build_parser())
        code: int = args.run(args)
    except SystemExit as stop:
        # How argparse ends after --help, --version and a wrong command line.
        return stop.code if isinstance(stop.code, int) else 2
    return code


def _give_up_output() -> None:
    """Let what is left in the buffer of standard output go: it must not be tried again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    print(f"moe-rules: error: {message}", file=sys.stderr)
    return code
