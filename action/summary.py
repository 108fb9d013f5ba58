"""What the GitHub Action runs: the difference to the base revision, in the summary of the job.

What it compares, the environment says: RULES, BASE, ARGUMENTS and FAIL_ON_DIFFERENCE come from
``action.yml``, GITHUB_STEP_SUMMARY and GITHUB_EVENT_PATH from GitHub.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ALIKE, DIFFERENT = 0, 1
"""Exit codes of ``moe-rules diff``; any other is an error."""


def main(environ: Mapping[str, str]) -> int:
    """Write the summary. 1 for a difference that is to fail, 2 for what cannot be compared."""
    rules = environ["RULES"]
    base = environ.get("BASE") or _base(environ)
    if not base:
        print("no revision to compare with: give the input base", file=sys.stderr)
        return 2
    words = ["diff", f"{_here(base)}:{rules}", rules, "--format", "markdown"]
    words += shlex.split(environ.get("ARGUMENTS", ""))
    command = [sys.executable, "-m", "moe_rules", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (ALIKE, DIFFERENT):
        print(done.stderr, end="", file=sys.stderr)
        return 2
    print(done.stdout)
    with open(environ["GITHUB_STEP_SUMMARY"], "a", encoding="utf-8") as file:
        file.write(done.stdout)
    return int(done.returncode == DIFFERENT and environ.get("FAIL_ON_DIFFERENCE") == "true")


def _base(environ: Mapping[str, str]) -> str:
    """The revision that a pull request or a push changes; empty where there is none."""
    event: dict[str, Any] = json.loads(Path(environ["GITHUB_EVENT_PATH"]).read_text("utf-8"))
    found = event.get("pull_request", {}).get("base", {}).get("sha") or event.get("before", "")
    return str(found).strip("0") and str(found)


def _here(revision: str) -> str:
    """The revision, or what was fetched of it: a checkout need not have the history."""
    if _git("cat-file", "-e", f"{revision}^{{commit}}"):
        return revision
    return "FETCH_HEAD" if _git("fetch", "--quiet", "--depth=1", "origin", revision) else revision


def _git(*words: str) -> bool:
    """Whether git does it."""
    return subprocess.run(["git", *words], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
