"""Makes an environment that runs a release's Python without a GPU, once, in the cache folder.

What vLLM's selection imports is pinned in ``requirements-VERSION.txt``, and the wheel is installed
without what it requires: most of that is never imported. A release without such a file gets the
one of the newest release before it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import venv
from pathlib import Path

HERE = Path(__file__).parent
MADE = "made.txt"
"""What an environment holds once it is complete: how long it took."""


class NoEnvironmentError(Exception):
    """No environment can be made. The text says which step failed, and what pip said."""


def requirements_for(version: str) -> Path:
    """The pinned requirements of a release, or of the newest one before it.

    Raises NoEnvironmentError for what is no version of three numbers.
    """
    wanted = _numbers(version)
    files = {_numbers(p.stem.removeprefix("requirements-")): p for p in HERE.glob("requirements-*")}
    return files[max((v for v in files if v <= wanted), default=min(files))]


def python_of(version: str, cache: Path) -> Path:
    """The Python of the environment of a release, which is made if it is not there.

    Raises NoEnvironmentError where pip fails; an environment that is half made is made anew.
    """
    folder = cache / "environments" / version
    python = folder / "bin" / "python"
    if (folder / MADE).exists():
        return python
    started = time.perf_counter()
    requirements = requirements_for(version)
    if folder.exists():
        shutil.rmtree(folder)
    venv.create(folder, with_pip=True)
    _pip(python, "install", "--no-deps", f"vllm=={version}")  # first, for there may be none
    _pip(python, "install", "--requirement", str(requirements))
    seconds = time.perf_counter() - started
    (folder / MADE).write_text(f"{requirements.name}, made in {seconds:.0f} s\n")
    return python


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoEnvironmentError(f"pip {' '.join(arguments)} failed:\n{done.stderr.strip()}")


def _numbers(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise NoEnvironmentError(f"{version!r} is no version of vLLM, as 0.33.0")
    return tuple(map(int, version.split(".")))
