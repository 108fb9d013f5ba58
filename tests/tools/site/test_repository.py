"""Files of the repository as pages, and the links between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.site.markdown import Page
from tools.site.repository import BrokenLinkError, Linker, source_page, written_pages


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "rules").mkdir()
    (tmp_path / "README.md").write_text("# Hello\n\n[rules](docs/rules.md#steps)\n")
    (tmp_path / "docs" / "rules.md").write_text("# Rules\n\n[a line](../rules/a.yaml#L2)\n")
    (tmp_path / "rules" / "a.yaml").write_text("platform: cuda\noracles: {}\n")
    return tmp_path


def test_written_pages_are_called_by_their_titles(root: Path) -> None:
    assert {page.path: page.name for page in written_pages(root)} == {
        "README.md": "Hello",
        "docs/rules.md": "Rules",
    }


def test_a_link_to_a_page_stays_and_one_to_a_file_leads_to_its_line(root: Path) -> None:
    home, rules = written_pages(root)
    linker = Linker(root, [home, rules])
    assert linker.linked(home).text == home.text
    assert "[a line](../rules/a.yaml.md#__span-0-2)" in linker.linked(rules).text
    assert linker.sources == {"rules/a.yaml"}


def test_a_picture_is_shown_as_it_is(root: Path) -> None:
    (root / "docs" / "a.png").write_bytes(b"\x89PNG")
    page = Page("README.md", "Home", "![what it shows](docs/a.png)\n")
    linker = Linker(root, [page])
    assert linker.linked(page).text == page.text
    assert (linker.pictures, linker.sources) == ({"docs/a.png"}, set())


def test_links_from_the_root_hold_wherever_the_page_is(root: Path) -> None:
    page = Page("facts/layer.md", "Layer", "[a](/README.md) [b](/rules/a.yaml#L1)")
    linked = Linker(root, [page, *written_pages(root)]).linked(page)
    assert linked.text == "[a](../README.md) [b](../rules/a.yaml.md#__span-0-1)\n"


def test_other_hosts_places_of_the_page_and_code_are_left_alone(root: Path) -> None:
    text = "[a](https://example.org/x) [b](#here)\n```\n[c](nowhere.md)\n```\n"
    page = Page("README.md", "Home", text)
    assert Linker(root, [page]).linked(page).text == text


@pytest.mark.parametrize("target", ["nowhere.md", "rules", "../outside.yaml"])
def test_a_link_to_nothing_is_an_error(root: Path, target: str) -> None:
    page = Page("README.md", "Home", f"[x]({target})")
    with pytest.raises(BrokenLinkError, match=r"README\.md links to"):
        Linker(root, [page]).linked(page)


def test_a_source_page_shows_the_file(root: Path) -> None:
    page = source_page(root, "rules/a.yaml")
    assert page.path == "rules/a.yaml.md"
    assert '````yaml linenums="1"\nplatform: cuda\noracles: {}\n````' in page.text
