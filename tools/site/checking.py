"""``python -m tools.site.checking FOLDER``: no dead link in a built site, which works offline.

Whatever a page links to or shows has to be a file of the site, and the place there that it names.
A script, style or picture from another host is an error; links to other hosts are not followed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}
"""What a browser fetches without being asked, by element."""
_NOT_LOADED = {"canonical", "next", "prev"}
_HOSTED = ("http", "https", "")


class _Document(HTMLParser):
    """The ids of a page, and what it links to and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids = {"", "__top"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif _LOADED.get(tag, "") in given and given.get("rel") not in _NOT_LOADED:
            self.loads.append(given[_LOADED[tag]])


def problems(folder: Path) -> Iterator[str]:
    """Everything that is wrong with the pages of a site, in words."""
    documents = {
        file.resolve(): _Document(file.read_text(encoding="utf-8"))
        for file in sorted(folder.rglob("*.html"))
    }
    for file, document in documents.items():
        name = file.relative_to(folder.resolve())
        for target in document.loads:
            if urlsplit(target).netloc:
                yield f"{name} loads {target}"
        for target in [*document.links, *document.loads]:
            parts = urlsplit(target)
            if parts.scheme not in _HOSTED or parts.netloc:
                continue
            # Only the page of what is not there is read from anywhere: it names the root.
            start = folder if parts.path.startswith("/") else file.parent
            path = unquote(parts.path).lstrip("/")
            other = (start / path).resolve() if parts.path else file
            if other.is_dir():
                other /= "index.html"
            if not other.is_file():
                yield f"{name} links to {target}, which is no file"
            elif other in documents and unquote(parts.fragment) not in documents[other].ids:
                yield f"{name} links to {target}, and there is no such place"


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found) or "no dead link, and nothing from elsewhere", file=sys.stderr)
    sys.exit(bool(found))
