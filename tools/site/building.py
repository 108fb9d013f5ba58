"""All pages together, their navigation, and the configuration that Zensical reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from moe_rules.cli.verifying import judged
from moe_rules.files.packaged import packaged_rules
from moe_rules.vocabulary.table_names import PLATFORMS
from tools.site import example_report
from tools.site.commands import command_pages
from tools.site.facts import fact_pages, switch_page
from tools.site.findings import findings_page
from tools.site.markdown import Page
from tools.site.names import index_page
from tools.site.platforms import platform_pages
from tools.site.repository import Linker, source_page, written_pages
from tools.site.requests import request_page

ASSETS = Path(__file__).parent / "assets"
HOME = "README.md"
PROJECT = (
    "docs/design.md",
    "docs/language-shapes.md",
    "docs/coverage.md",
    "docs/recording.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
TABLES = ("docs/quirks.md", "docs/releases.md")
"""The written pages that do not stand under "Guide"."""

CONFIGURATION: dict[str, Any] = {
    "site_name": "moe_rules",
    "site_description": "Which Mixture-of-Experts kernel runs here, and why",
    "docs_dir": "pages",
    "site_dir": "site",
    "use_directory_urls": False,
    "theme": {
        "font": False,
        "features": [
            "content.code.copy",
            "navigation.footer",
            "navigation.indexes",
            "navigation.prune",
            "navigation.tabs",
            "navigation.top",
            "search.highlight",
            "toc.follow",
        ],
        "palette": [
            {
                "media": f"(prefers-color-scheme: {is_now})",
                "scheme": scheme,
                "toggle": {"icon": icon, "name": f"Switch to {other}"},
            }
            for is_now, scheme, icon, other in (
                ("light", "default", "lucide/sun", "dark"),
                ("dark", "slate", "lucide/moon", "light"),
            )
        ],
    },
    "extra_css": ["assets/site.css"],
    # Without it the theme loads this script from elsewhere; it lets search work on file://.
    "extra": {"polyfills": ["assets/iframe-worker.js"]},
    "plugins": ["search", "offline"],
    "markdown_extensions": [
        "admonition",
        "pymdownx.details",
        {"pymdownx.highlight": {"line_spans": "__span", "pygments_lang_class": True}},
        "pymdownx.superfences",
        "tables",
        {"toc": {"permalink": True, "toc_depth": 3}},
    ],
    "validation": {"invalid_links": True, "invalid_link_anchors": True},
}


def generated_pages() -> list[Page]:
    """The pages that are made of the tables and commands, save for what is found in the tables."""
    return [
        *platform_pages(),
        *fact_pages(),
        request_page(),
        switch_page(),
        index_page(),
        example_report.report_page(),
        *command_pages(),
    ]


def found_in_tables() -> Page:
    """The findings of all platforms; takes half a minute."""
    with ProcessPoolExecutor(2) as pool:
        return findings_page(one for of in pool.map(judged, PLATFORMS) for one in of)


def navigation(pages: Sequence[Page], sources: Sequence[Page]) -> list[dict[str, Any]]:
    """What the reader sees at the top and on the left."""
    names = {page.path: page.name for page in pages}

    def listed(paths: Iterable[str]) -> list[dict[str, Any]]:
        return [{names[path]: path} for path in paths if path in names]

    def below(folder: str) -> list[str]:
        return [path for path in names if path.startswith(f"{folder}/")]

    placed = {*PROJECT, *TABLES}
    home = next(page.text for page in pages if page.path == HOME)
    guide = sorted((path for path in below("docs") if path not in placed), key=home.rfind)
    platforms = [
        {"Overview": "platforms/index.md"},
        *({platform: listed(below(f"platforms/{platform}"))} for platform in PLATFORMS),
        {"Machines": "platforms/machines.md"},
    ]
    return [
        {"Home": HOME},
        {"Guide": listed(guide)},
        {"Platforms": platforms},
        {"Report": "report.md"},
        {"Facts": listed(below("facts"))},
        {"Requests and switches": listed(["requests.md", "switches.md"])},
        {"Quirks, releases, findings": listed([*TABLES, "findings.md"])},
        {"Commands": listed(below("commands"))},
        {"Index": "names.md"},
        {
            "Project": [
                *listed(PROJECT),
                {"Benchmarks": listed(below("benchmarks"))},
                {"Rule files": [{page.name: page.path} for page in sources]},
            ]
        },
    ]


def write(folder: Path) -> None:
    """Write pages and configuration anew. Raises BrokenLinkError."""
    root = packaged_rules().parent
    pages = [*written_pages(root), *generated_pages(), found_in_tables()]
    linker = Linker(root, pages, [example_report.FILE])
    linked = [linker.linked(page) for page in pages]
    sources = [source_page(root, path) for path in sorted(linker.sources)]
    target = folder / CONFIGURATION["docs_dir"]
    shutil.rmtree(target, ignore_errors=True)
    for page in [*linked, *sources]:
        file = target / page.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page.text, encoding="utf-8")
    for picture in linker.pictures:
        shutil.copyfile(root / picture, target / picture)
    shutil.copytree(ASSETS, target / "assets")
    example_report.write_report(root, target / example_report.FILE)
    configuration = {**CONFIGURATION, "nav": navigation(linked, sources)}
    # JSON is YAML.
    (folder / "mkdocs.yml").write_text(json.dumps(configuration, indent=1), encoding="utf-8")
