"""Chromium for the browser test: the one that is there, Debian's, or Playwright's own.

``python tests/browser/chromium.py`` installs one where none is found: with apt as root, else with
Playwright, which fetches it from its maker. Says what to do where neither works.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

VARIABLE = "MOE_RULES_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
APT = ("apt-get", "install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core")
ADVICE = f"""\
There is no Chromium here, and none could be installed. Any of these will do:
  apt-get install chromium                  (Debian, as root)
  python -m playwright install chromium     (from Playwright's maker, without root)
  {VARIABLE}=/path/to/chromium      (one that is elsewhere)"""


def find_chromium() -> str | None:
    """The browser to start; None: the one that Playwright has."""
    given = os.environ.get(VARIABLE)
    return given or next(filter(None, map(shutil.which, NAMES)), None)


def _playwright_has_one() -> bool:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return os.path.exists(playwright.chromium.executable_path)


def install() -> int:
    """Install one where none is found. Returns the exit code."""
    if find_chromium() or _playwright_has_one():
        return 0
    if os.getuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-q"], check=False)
        subprocess.run(APT, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if find_chromium() is None:
        words = [sys.executable, "-m", "playwright", "install", "chromium"]
        subprocess.run(words, check=False)
    if find_chromium() or _playwright_has_one():
        return 0
    print(ADVICE, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(install())
