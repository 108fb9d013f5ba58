"""The repository's own files as pages: Markdown as it is, any other file that is linked as source.

Pages stand where their files stand, so that links between them need no change. A link to what is no
Markdown leads to a page that shows the file, at the line that it names.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.site.markdown import Page, code, document, heading

PICTURE = ".png"
WRITTEN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "benchmarks/**/*.md")
"""The pages that are written by hand, or made by other commands and kept."""
_LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"^\s*(```|~~~)")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_LANGUAGES = {".yaml": "yaml", ".yml": "yaml", ".py": "python", ".json": "json", ".toml": "toml"}


class BrokenLinkError(ValueError):
    """A page links to a file that the repository does not have."""


def written_pages(root: Path) -> Iterator[Page]:
    """The Markdown files of a checkout."""
    for pattern in WRITTEN:
        for file in sorted(root.glob(pattern)):
            text = file.read_text(encoding="utf-8")
            title = _TITLE.search(text)
            path = file.relative_to(root).as_posix()
            yield Page(path, title[1] if title else path, text)


def source_page(root: Path, path: str) -> Page:
    """A file of the repository with numbered lines."""
    text = (root / path).read_text(encoding="utf-8").rstrip()
    language = _LANGUAGES.get(posixpath.splitext(path)[1], "text")
    # A search finds what the page of a rule says of it, and not the rule again.
    head = "---\nsearch:\n  exclude: true\n---"
    fence = f'````{language} linenums="1"\n{text}\n````'
    return Page(_page_of(path), path, document(head, heading(1, code(path)), fence))


def _page_of(path: str) -> str:
    return f"{path}.md"


class Linker:
    """Turns links to files of the repository into links to pages.

    ``sources`` collects the files that no page is of, but that pages link to, ``pictures`` those
    that they show. ``made`` are files that the site has besides pages.
    """

    def __init__(self, root: Path, pages: Iterable[Page], made: Iterable[str] = ()) -> None:
        self.root = root
        self.known = {*(page.path for page in pages), *made}
        self.sources: set[str] = set()
        self.pictures: set[str] = set()

    def linked(self, page: Page) -> Page:
        """The page with links that hold in the site. Raises BrokenLinkError."""
        lines = []
        in_fence = False
        for line in page.text.splitlines():
            if _FENCE.match(line):
                in_fence = not in_fence
            elif not in_fence:
                line = _LINK.sub(lambda found: f"]({self._target(page, found['target'])})", line)
            lines.append(line)
        return page.replaced(text="\n".join(lines) + "\n")

    def _target(self, page: Page, target: str) -> str:
        if target.startswith(("#", "mailto:")) or "://" in target:
            return target
        path, mark, fragment = target.partition("#")
        folder = posixpath.dirname(page.path)
        wanted = (
            path[1:] if path.startswith("/") else posixpath.normpath(posixpath.join(folder, path))
        )
        if wanted not in self.known:
            if not (self.root / wanted).is_file():
                raise BrokenLinkError(f"{page.path} links to {target}, and there is no {wanted}")
            if wanted.endswith(PICTURE):
                self.pictures.add(wanted)
            else:
                self.sources.add(wanted)
                wanted = _page_of(wanted)
                fragment = re.sub(r"^L(\d+)$", r"__span-0-\1", fragment)
        return posixpath.relpath(wanted, folder or ".") + mark + fragment
