"""The report in Chromium: what it shows is what explain says, by mouse, keyboard and address."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_rules.cli import main
from moe_rules.files.packaged import packaged_rules
from tests.browser.conftest import MODELS, Open

AXE = Path(__file__).parent / "axe-core" / "axe.min.js"
Picture = Callable[[Any, str], None]


def cell(page: Any, scheme: str, machine: str) -> Any:
    return page.locator(f'[data-cell="{scheme}@{machine}"]')


def detail(page: Any) -> Any:
    return page.get_by_role("complementary", name="Explanation")


def shown_json(page: Any) -> Any:
    """What the open cell says as JSON."""
    block = page.locator("#json")
    block.locator("summary").click()
    return json.loads(block.locator("pre:not(:empty)").text_content())


def violations(page: Any) -> list[str]:
    """What axe-core finds, one line each."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run()")
    return [
        f"{one['id']}: {one['help']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


def explain(page: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the command that the page gives says, with files named as in a report."""
    words = shlex.split(page.locator(".command code").text_content())
    assert words[:2] == ["moe-rules", "explain"]
    capsys.readouterr()
    main([*words[1:], "--format", "json"])
    text = capsys.readouterr().out.replace(f"{packaged_rules()}/", "rules/")
    return json.loads(re.sub(r'"/[^"]*/(mine/[^"]*)"', r'"\1"', text))


def test_a_cell_opens_and_says_what_explain_says(
    reports: Path, pages: Open, capsys: pytest.CaptureFixture[str], picture: Picture
) -> None:
    page = pages((reports / "report.html").as_uri())
    assert page.get_by_role("grid").get_by_role("columnheader").count() == 11
    picture(page, "light")
    cell(page, "fp8-block", "h100").click()
    heading = detail(page).get_by_role("heading", level=2)
    assert heading.text_content() == "fp8-block on h100"
    assert heading.evaluate("node => node === document.activeElement")
    picture(page, "cell")
    assert shown_json(page) == explain(page, capsys)
    link = detail(page).locator("a.place").first.get_attribute("href")
    assert link.startswith("https://example.org/moe_rules/blob/main/rules/cuda/")
    assert "#L" in link


@pytest.mark.parametrize(
    ("model", "tp", "dp", "request_", "scheme", "machine"),
    [
        ("0", "1", "1", "auto", "as published", "b200"),
        ("1", "8", "8", "auto", "nvfp4", "b200"),
        ("1", "8", "1", "triton", "fp8-block", "mi300x"),
        ("2", "1", "1", "marlin", "as published", "h100"),
        ("2", "1", "1", "auto", "int4-gptq", "arm"),
        ("1", "8", "8", "flashinfer_trtllm", "unquantized", "h100"),
    ],
)
def test_switches_lead_to_what_explain_says(
    reports: Path,
    pages: Open,
    capsys: pytest.CaptureFixture[str],
    model: str,
    tp: str,
    dp: str,
    request_: str,
    scheme: str,
    machine: str,
) -> None:
    page = pages((reports / "report.html").as_uri())
    for name, value in {"model": model, "tp": tp, "dp": dp, "request": request_}.items():
        page.locator(f"select[name={name}]").select_option(value)
    if dp != "1":
        page.get_by_label("expert parallel").check()
        page.get_by_label("exchange of tokens").select_option("deepep_low_latency")
    cell(page, scheme, machine).click()
    assert shown_json(page) == explain(page, capsys)


def test_filters_leave_what_they_ask_for(reports: Path, pages: Open) -> None:
    page = pages((reports / "report.html").as_uri())
    cells = page.locator("[data-cell]")
    everything = cells.count()
    page.get_by_label("search").fill("marlin a100")
    assert 0 < cells.count() < everything
    assert all("MARLIN" in text for text in cells.all_text_contents())
    assert page.get_by_label("search").evaluate("node => node === document.activeElement")
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("only").select_option("none")
    assert 0 < cells.count() < everything
    assert all("✕" in text for text in cells.all_text_contents())
    page.get_by_role("button", name="Reset").click()
    page.locator("select[name=machine]").select_option("h100")
    page.locator("select[name=scheme]").select_option("nvfp4")
    assert cells.count() == 1
    page.get_by_label("search").fill("no such thing")
    assert page.get_by_text("No cell is what the filters ask for.").is_visible()


def test_a_link_leads_to_the_same_state(reports: Path, pages: Open) -> None:
    page = pages((reports / "report.html").as_uri())
    page.get_by_label("model").select_option("1")
    page.locator("select[name=tp]").select_option("8")
    page.get_by_label("expert parallel").check()
    page.get_by_label("backend asked for").select_option("triton")
    page.get_by_label("search").fill("h100")
    cell(page, "fp8-block", "h100").click()
    other = pages(page.url)
    for part in ("#controls", "#summary", "#grid", "#detail"):
        assert other.locator(part).inner_text() == page.locator(part).inner_text()
    assert other.get_by_label("expert parallel").is_checked()
    assert other.locator("select[name=tp]").input_value() == "8"
    # What a report does not have is what it is by default, and nothing breaks.
    pages(f"{(reports / 'report.html').as_uri()}#model=77&tp=3&open=x%40y&request=what&side=z")


def test_by_keyboard_alone(reports: Path, pages: Open) -> None:
    page = pages((reports / "report.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("fp8-")
    focused = "node => document.activeElement.dataset.cell ?? document.activeElement.tagName"
    for _ in range(9):
        page.keyboard.press("Tab")
        if "@" in page.locator("body").evaluate(focused):
            break
    first = page.locator("body").evaluate(focused)
    assert first.endswith("@a100")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    second = page.locator("body").evaluate(focused)
    assert second.endswith("@l40s")
    assert second.split("@")[0] != first.split("@")[0]
    page.keyboard.press("Enter")
    assert detail(page).is_visible()
    page.keyboard.press("Escape")
    assert not detail(page).is_visible()
    assert page.locator("body").evaluate(focused) == second


def test_before_and_after(
    reports: Path, pages: Open, capsys: pytest.CaptureFixture[str], picture: Picture
) -> None:
    page = pages((reports / "compared.html").as_uri())
    page.get_by_label("only").select_option("changed")
    changed = page.locator("[data-cell]")
    assert changed.count() > 0
    assert all("was FLASHINFER" in text for text in changed.all_text_contents())
    cell(page, "unquantized", "b200").click()
    picture(page, "compared")
    after = shown_json(page)
    assert after["backend"] == "TRITON"
    assert after == explain(page, capsys)
    detail(page).get_by_role("button", name="before").click()
    before = shown_json(page)
    assert before["backend"] != "TRITON"
    assert before == explain(page, capsys)
    # What changed in deployments that are not shown is a link away.
    page.locator("#changes a", has_text="fp8-block on h100").first.click()
    page.locator("input[name=ep]:checked").wait_for()
    assert cell(page, "fp8-block", "h100").get_attribute("aria-current") == "true"


def test_changes_of_a_request_name_it(tmp_path: Path, pages: Open) -> None:
    out = tmp_path / "releases.html"
    words = ["--machine", "h100", "--scheme", "unquantized", "--tp", "1", "--dp", "1"]
    words += ["--against", "0.32", "--model", str(MODELS / "DeepSeek-V3.json"), "--out", str(out)]
    assert main(["report", *words]) == 0
    page = pages(out.as_uri())
    assert "(vLLM 0.33) decides 1 deployment otherwise" in page.locator("#changes").inner_text()
    page.locator("#changes a", has_text="on h100, asked for marlin").click()
    assert "marlin was asked for and means auto here" in detail(page).inner_text()


def test_measured_times(reports: Path, pages: Open, picture: Picture) -> None:
    page = pages((reports / "compared.html").as_uri())
    cell(page, "fp8-block", "h100").click()
    times = detail(page).locator("figure.times")
    assert "36.0 \u00b5s, 1.80\u00d7" in times.inner_text()
    times.scroll_into_view_if_needed()
    picture(page, "measured")
    page.get_by_text("Measured layers (1)").click()
    assert page.locator("#measured figure").is_visible()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize(
    ("file", "state"),
    [
        ("report.html", ""),
        ("report.html", "#open=fp8-block%40h100"),
        ("report.html", "#model=2&open=int4-gptq%40arm"),
        ("report.html", "#open=nvfp4%40xpu&request=marlin"),
        ("compared.html", "#open=unquantized%40b200&only=changed"),
        ("compared.html", "#open=fp8-block%40h100"),
    ],
)
def test_nothing_is_out_of_reach(
    reports: Path, pages: Open, picture: Picture, file: str, state: str, width: int, dark: bool
) -> None:
    page = pages((reports / file).as_uri() + state, width=width, dark=dark)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert violations(page) == []
    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wider <= 0


@pytest.mark.parametrize(
    ("name", "width", "dark", "state"),
    [
        ("dark", 1440, True, ""),
        ("dark_cell", 1440, True, "#model=1&tp=8&ep=true&open=nvfp4%40b200"),
        ("narrow", 390, False, ""),
        ("narrow_cell", 390, True, "#open=fp8-block%40h100"),
        ("readme", 1440, False, "#model=1&tp=8&open=fp8-block%40h100"),
    ],
)
def test_pictures(
    reports: Path, pages: Open, picture: Picture, name: str, width: int, dark: bool, state: str
) -> None:
    page = pages((reports / "report.html").as_uri() + state, width=width, dark=dark)
    assert page.get_by_role("grid").is_visible() or width < 960
    picture(page, name)


def test_prints_the_table_and_the_open_cell(reports: Path, pages: Open) -> None:
    page = pages((reports / "report.html").as_uri() + "#open=fp8-block%40h100")
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()
    assert detail(page).get_by_role("heading", level=2).is_visible()
    assert page.get_by_role("grid").is_visible()
    assert len(page.pdf()) > 10_000
