"""An example of ``moe-rules report``, made when the site is, and the page that shows it."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from moe_rules.cli import main
from tools.site.markdown import Page, code, document, heading, link

FILE = "assets/example_report.html"
MODEL = "examples/models/Qwen3-30B-A3B.json"
FULL_PAGE = "---\nhide:\n  - navigation\n  - toc\n---"


def _command(model: str, out: str) -> list[str]:
    return ["report", "--model", model, "--out", out]


def report_page() -> Page:
    """The page with the report inside."""
    command = code(f"moe-rules {' '.join(_command(MODEL, 'report.html'))}")
    told = document(
        FULL_PAGE,
        heading(1, "Report"),
        f"{command} writes one file to look at, click through and send around. This is it; "
        f"{link('alone', FILE)}, its address keeps what is shown. "
        f"{link('What else it takes', '/docs/report.md')}.",
        f'<iframe src="{FILE}" title="Example of a report" class="report"></iframe>',
    )
    return Page("report.md", "Report", told)


def write_report(root: Path, file: Path) -> None:
    """Write the report of a checkout's example. Raises RuntimeError where that fails."""
    words = _command(MODEL, str(file.absolute()))
    with chdir(root):  # the page repeats the model as it is given here
        status = main(words)
    if status != 0:
        raise RuntimeError(f"moe-rules {' '.join(words)} ended with {status}")
