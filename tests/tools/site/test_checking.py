"""The check of a built site."""

from __future__ import annotations

from pathlib import Path

from tools.site.checking import problems


def site(folder: Path, body: str) -> list[str]:
    (folder / "sub").mkdir()
    (folder / "index.html").write_text(f"<h1 id='top'>x</h1>{body}")
    (folder / "sub" / "index.html").write_text('<a href="../index.html#top">up</a><p id=p>')
    (folder / "a.css").write_text("")
    return list(problems(folder))


def test_a_sound_site(tmp_path: Path) -> None:
    body = (
        '<link rel=stylesheet href="a.css"><a href="sub/#p">p</a><a href="#top">t</a>'
        '<a href="/sub/index.html">s</a><a href="https://example.org">chosen by the reader</a>'
        '<a href="mailto:x@example.org">m</a>'
    )
    assert site(tmp_path, body) == []


def test_what_is_wrong(tmp_path: Path) -> None:
    body = (
        '<a href="no.html">n</a><a href="sub/index.html#q">q</a><img src="no.png">'
        '<script src="https://example.org/x.js"></script>'
    )
    assert site(tmp_path, body) == [
        "index.html loads https://example.org/x.js",
        "index.html links to no.html, which is no file",
        "index.html links to sub/index.html#q, and there is no such place",
        "index.html links to no.png, which is no file",
    ]
