"""What reading and checking makes of files, stored so that it need not be made again.

It is plain data (JSON), under a key: the digest of the files and of the code that reads them. So
what is stored is never stale, and nobody says when it is. A wheel brings that of the packaged
tables along; all else is kept in the user's cache, which :data:`VARIABLE` names (``off``: nothing
is kept). What is there is taken only if nobody but the user could have written it.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

VARIABLE = "MOE_RULES_CACHE"
KEPT = 200
"""Files that the user's cache keeps, the latest ones."""

_PACKAGE = Path(__file__).resolve().parents[1]
PACKAGED = _PACKAGE / "stored"
"""Where a wheel has what is stored of the packaged tables."""


def stored(what: str, files: Sequence[Path], rooms: Sequence[str], make: Callable[[], Any]) -> Any:
    """The plain data that ``make`` makes of ``files``, from where it is stored if it is.

    ``what`` tells apart what is made of the same files; ``rooms`` are the packages of moe_rules
    whose code makes it. Raises what ``make`` raises, of which nothing is stored.
    """
    key = _key(what, files, rooms)
    if key is None:
        return make()
    name, cache = f"{key}.json", user_cache()
    found = _read(PACKAGED / name)
    if found is None and cache is not None:
        found = _read(cache / name, own=True)
    if found is None:
        found = make()
        # Files may have changed while they were read.
        if cache is not None and _key(what, files, rooms) == key:
            _write(cache, name, found)
    return found


def user_cache() -> Path | None:
    """The folder where the user's data is kept; None where none is to be."""
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == "off" else Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "moe_rules") if os.path.isabs(base) else None


def _key(what: str, files: Sequence[Path], rooms: Sequence[str]) -> str | None:
    """None where a file cannot be read, which whoever makes something of it will say."""
    digest = sha256(what.encode())
    try:
        for content in (*map(_code_of, rooms), *(file.read_bytes() for file in files)):
            digest.update(sha256(content).digest())
    except OSError:
        return None
    return digest.hexdigest()


@functools.cache
def _code_of(room: str) -> bytes:
    """All that a room says."""
    folder = _PACKAGE / room
    names = sorted(name for name in os.listdir(folder) if name.endswith(".py"))
    return b"\0".join((folder / name).read_bytes() for name in names)


def _read(path: Path, *, own: bool = False) -> Any:
    """The data of a file; None where there is none, or another than was written.

    ``own``: it counts only if nobody but the user could have written it.
    """
    try:
        with path.open("rb") as file:
            if own and not _is_own(os.fstat(file.fileno())):
                return None
            digest, _, text = file.read().partition(b"\n")
    except OSError:
        return None
    return json.loads(text) if digest == _digest_of(text) else None


def _is_own(status: os.stat_result) -> bool:
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _write(folder: Path, name: str, data: Any) -> None:
    """Write a file at once, so that nobody reads half of it. A folder that takes none is left."""
    import tempfile

    text = json.dumps(data, separators=(",", ":")).encode()
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_digest_of(text) + b"\n" + text)
            os.replace(temporary, folder / name)
        except OSError:  # as where nothing is left of the disk
            os.unlink(temporary)
            raise
        kept = sorted(folder.glob("*.json"), key=os.path.getmtime, reverse=True)
        for old in kept[KEPT:]:
            old.unlink()


def _digest_of(text: bytes) -> bytes:
    return sha256(text).hexdigest().encode()
