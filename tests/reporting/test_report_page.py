"""The page of a report: all modules in one script, nothing from elsewhere, data no markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import html5lib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.language.ruleset import load_platform
from moe_rules.reporting.report.families import OTHER, families, family_of
from moe_rules.reporting.report.page import FOLDER, MAIN, data_block, modules, page
from moe_rules.reporting.report.tables import Table, Tables
from moe_rules.vocabulary.table_names import PLATFORMS

SCRIPTS = sorted(FOLDER.glob("*.js"))


def test_every_module_is_in_the_script_once_and_after_what_it_imports() -> None:
    script = modules(MAIN)
    assert not re.search(r"^(import|export) ", script, re.MULTILINE)
    at = {}
    for file in SCRIPTS:
        first = file.read_text("utf-8").splitlines()[0]
        assert first.startswith("// "), f"{file.name} does not say what it is for"
        assert script.count(first) == 1
        at[file.name] = script.index(first)
    for file in SCRIPTS:
        for imported in re.findall(r'from "\./([\w-]+\.js)"', file.read_text("utf-8")):
            assert at[imported] < at[file.name]


def test_no_two_modules_declare_a_name() -> None:
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", modules(MAIN), re.M)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("file", [*SCRIPTS, FOLDER / "index.html", FOLDER / "style.css"])
def test_nothing_is_loaded_and_nothing_is_markup(file: Path) -> None:
    text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    for word in ("http:", "https:", "@import", "url(", "fetch(", "innerHTML", "insertAdjacentHTML"):
        assert word not in text
    assert not re.search(r"\son\w+=\"", text)


def test_the_policy_allows_this_script_and_style_alone() -> None:
    text = page({}, "a <title> & more")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    for tag in ("style", 'script type="module"'):
        content = re.search(rf"<{tag}>(.*?)</{tag.split()[0]}>", text, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert "<title>a &lt;title&gt; &amp; more</title>" in text


NAMES = st.one_of(
    st.sampled_from(
        ["</script>", "<!--<script>", "\u2028", "\ud800", "{{data}}", "\\1", "</title>"]
    ),
    st.text(st.characters(exclude_categories=()), max_size=8),
)


@given(NAMES)
def test_any_text_may_be_data_and_a_title(name: str) -> None:
    block = data_block({"name": name})
    assert "<" not in block
    assert block.splitlines() == [block]
    text = page({"name": name}, name)
    assert block in text
    # Every byte of it is what HTML allows, and is read as it was meant.
    html = html5lib.HTMLParser(strict=True).parse(text.encode("utf-8"))
    space = "{http://www.w3.org/1999/xhtml}"
    data = html.find(f".//{space}script[@id='data']")
    assert json.loads(data.text) == {"name": name}
    if name.isprintable():
        assert (html.find(f".//{space}title").text or "") == name


def test_backends_have_families() -> None:
    for platform in PLATFORMS:
        for oracle in load_platform(platform).oracles.values():
            for backend in oracle.backends:
                assert family_of(backend) in (*families(), OTHER)
    assert family_of("BATCHED_VLLM_CUTLASS") == "CUTLASS"
    assert family_of("FLASHINFER_CUTLASS") == "FlashInfer"
    assert family_of("MOONEP") == OTHER
    # The page has a colour for each.
    style = (FOLDER / "style.css").read_text("utf-8")
    assert all(f".family-{number} " in style for number in range(len(families()) + 1))


def test_tables_hold_a_value_once_and_runs_what_follows_its_like() -> None:
    table = Table()
    assert [table.add(value) for value in ({"a": 1}, [2], {"a": 1}, "x", "x")] == [0, 1, 0, 2, 2]
    assert table.values == [{"a": 1}, [2], "x"]
    tables = Tables(str)
    assert tables.plain()["runs"] == []
    tables.runs([7, 7, None, None, None, 7])
    assert tables.plain()["runs"] == [[7, 2, None, 3, 7, 1]]
