"""Which files there are to read. Nothing that cannot be read is passed over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def is_present(path: Path) -> bool:
    """Whether there is a file, or a link that should lead to one: reading that is an error."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def yaml_files_below(folder: Path) -> list[Path]:
    """The YAML files below a folder, in order. Raises OSError for a folder that cannot be read."""
    return sorted(path for path in _files_below(folder) if path.suffix in (".yaml", ".yml"))


def _files_below(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for here, _, names in os.walk(folder, onerror=fail):
        yield from filter(is_present, (Path(here, name) for name in names))
