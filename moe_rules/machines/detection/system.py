"""Everything detection may ask of a machine, in one replaceable object.

Probes read files, the environment, installed packages and shared libraries only through a
:class:`System`, so that each of them can be tried on a machine that is not there: a directory
with recorded files for ``root``, a stand-in for a driver library.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


def _distribution_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _entry_points(group: str) -> list[str]:
    return [entry.name for entry in importlib.metadata.entry_points(group=group)]


@dataclass(frozen=True)
class System:
    """One machine to look at; the defaults are the machine this runs on.

    ``root`` is prefixed to every absolute path that is read. ``load_library`` raises OSError for
    a library that is not there, as :class:`ctypes.CDLL` does. ``find_spec`` is only called with
    top-level module names, which imports nothing.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    sys_platform: str = sys.platform
    machine: str = field(default_factory=platform.machine)
    load_library: Callable[[str], Any] = ctypes.CDLL
    find_spec: Callable[[str], ModuleSpec | None] = importlib.util.find_spec
    distribution_version: Callable[[str], str | None] = _distribution_version
    entry_points: Callable[[str], list[str]] = _entry_points
    which: Callable[[str], str | None] = shutil.which

    def path(self, absolute: str) -> Path:
        """Where ``absolute`` is under ``root``."""
        return self.root / absolute.lstrip("/")

    def read(self, absolute: str) -> str | None:
        """The text of a file, or None if there is none or it may not be read."""
        try:
            return self.path(absolute).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def names_in(self, absolute: str) -> list[str]:
        """The names in a directory, numbers in numeric order; empty if it cannot be read."""
        try:
            names = os.listdir(self.path(absolute))
        except OSError:
            return []
        return sorted(names, key=lambda name: (len(name), name) if name.isdigit() else (99, name))
