"""Where a value stands in a JSON file: Python's reader keeps no lines, so an error looks it up."""

from __future__ import annotations

import json
from collections.abc import Iterator

_BETWEEN = " \t\n\r,:"
_value_at = json.JSONDecoder().raw_decode


def line_of(path: str, text: str) -> int | None:
    """The line of what a dotted path leads to in a JSON text; None where it leads nowhere.

    A key may have dots itself. Where the path goes on below what is there, the line is that of the
    last part that is. Of a key given twice the last counts, as in reading.
    """
    start, inside = _skip(text, 0), path
    found: int | None = None
    while inside:
        keys = [(key, at) for key, at in _entries(text, start) if _leads(key, inside)]
        if not keys:
            break
        key, start = max(keys, key=lambda one: (len(one[0]), one[1]))
        inside = inside[len(key) + 1 :]
        found = start
    return None if found is None else text.count("\n", 0, found) + 1


def _leads(key: str, path: str) -> bool:
    return path == key or path.startswith(f"{key}.")


def _entries(text: str, start: int) -> Iterator[tuple[str, int]]:
    """The keys of the object, or the indices of the list, that begins there, with their values."""
    if text[start] not in "{[":
        return
    at, index = _skip(text, start + 1), 0
    while text[at] not in "}]":
        key = str(index)
        if text[start] == "{":
            key, at = _value_at(text, at)
            at = _skip(text, at)
        yield key, at
        _, at = _value_at(text, at)
        at, index = _skip(text, at), index + 1


def _skip(text: str, at: int) -> int:
    """Past white space, commas and colons."""
    while text[at] in _BETWEEN:
        at += 1
    return at
