"""Puts the page of a report and its data into one HTML file that loads nothing.

Modules of JavaScript are put one after the other, each after those that it imports; their imports
and the word ``export`` are left out, so no two of them may declare the same name. A policy in the
page allows this script and this style, and nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MAIN = "main.js"

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(?P<file>[\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|class|const) )", re.MULTILINE)


def page(data: Mapping[str, Any], title: str) -> str:
    """The file of a report. ``data`` is as :mod:`moe_rules.reporting.report.schema` says."""
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    script = modules(MAIN)
    parts = {
        "title": html.escape("".join(map(_shown, title))),
        "policy": "; ".join(
            (
                "default-src 'none'",
                f"style-src {_digest(style)}",
                f"script-src {_digest(script)}",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        "style": style,
        "script": script,
        "data": data_block(data),
    }
    template = (FOLDER / "index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def data_block(data: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element: it cannot end one, or begin a comment."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\x7f", "\\u007f")


def _shown(sign: str) -> str:
    """A sign, or what stands for one that a page must not have: controls, halves, and no signs."""
    return "\ufffd" if unicodedata.category(sign) in ("Cc", "Cs", "Cn") else sign


def modules(name: str) -> str:
    """A module and all that it imports as one script."""
    found: dict[str, str] = {}

    def add(file: str) -> None:
        if file in found:
            return
        found[file] = ""
        text = (FOLDER / file).read_text(encoding="utf-8")
        for imported in _IMPORT.finditer(text):
            add(imported["file"])
        del found[file]  # it comes after those
        found[file] = _EXPORT.sub("", _IMPORT.sub("", text))

    add(name)
    return "\n".join(found.values())


def _digest(text: str) -> str:
    """A source of a Content-Security-Policy that allows the content of one element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
