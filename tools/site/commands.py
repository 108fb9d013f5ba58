"""A page per command with its ``--help``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from moe_rules.cli import build_parser
from tools.site.markdown import Page, code, document, heading, link, table

COLUMNS = "COLUMNS"
WIDTH = "100"


def command_pages() -> Iterator[Page]:
    """What ``moe-rules`` does, then each command."""
    with _wide():
        parser = build_parser()
        (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        about = {action.dest: action.help or "" for action in commands._choices_actions}
        rows = [
            [link(code(name), f"/commands/{name}.md"), about[name]] for name in commands.choices
        ]
        told = document(
            heading(1, "Commands"),
            "`moe-rules COMMAND --help` prints what is here. Exit codes: 0 done, 1 the answer is "
            "no (nothing serves, findings, disagreement), 2 wrong input.",
            table(["command", "what it does"], rows),
        )
        yield Page("commands/index.md", "Overview", told)
        for name, command in commands.choices.items():
            help_ = f"```text\n{command.format_help().rstrip()}\n```"
            told = document(heading(1, f"moe-rules {name}"), help_)
            yield Page(f"commands/{name}.md", name, told)


@contextmanager
def _wide() -> Iterator[None]:
    """Help texts that do not depend on who builds the site."""
    before = os.environ.get(COLUMNS)
    os.environ[COLUMNS] = WIDTH
    try:
        yield
    finally:
        if before is None:
            del os.environ[COLUMNS]
        else:
            os.environ[COLUMNS] = before
