"""A report in a real browser: headless Chromium, driven by Playwright.

``make test-browser`` makes the environment. Where Playwright is not installed, none of these tests
is collected. Screenshots go to ``MOE_RULES_PICTURES``, if that is set.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moe_rules.cli import main
from tests.browser.chromium import find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "models"

if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]

Open = Callable[..., "Page"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox"] if os.getuid() == 0 else []
        )
        yield browser
        browser.close()


@pytest.fixture
def pages(browser: Browser) -> Iterator[Open]:
    """Opens a page; whatever it logs as an error, or asks from anywhere, fails the test."""
    problems: list[str] = []
    contexts = []

    def open_page(url: str, *, width: int = 1440, height: int = 900, dark: bool = False) -> Page:
        context = browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": height},
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda said: problems.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda asked: asked.url.startswith("file:") or problems.append(f"asks {asked.url}"),
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report, one of everything, and one that compares."""
    folder = tmp_path_factory.mktemp("reports")
    models = [
        word
        for name in ("Qwen3-30B-A3B-FP8", "DeepSeek-V3", "gpt-oss-120b")
        for word in ("--model", str(MODELS / f"{name}.json"))
    ]
    switches = ["--tp", "1", "--tp", "8", "--dp", "1", "--dp", "8"]
    switches += ["--all2all", "allgather_reducescatter", "--all2all", "deepep_low_latency"]
    repository = ["--repository", "https://example.org/moe_rules/blob/main"]
    report = folder / "report.html"
    assert main(["report", *models, *switches, *repository, "--out", str(report)]) == 0
    mine = folder / "mine"
    mine.mkdir()
    (mine / "cuda.yaml").write_text(
        "platform: cuda\n"
        "oracles:\n"
        "  unquantized:\n"
        "    adjust:\n"
        '      - {when: {compute_capability: "10.0"}, first: [TRITON], because: faster for us}\n'
        "  fp8:\n"
        "    adjust:\n"
        '      - {when: {compute_capability: "9.0", use_ep: true}, first: [DEEPGEMM],'
        " because: our experts are large}\n"
    )
    compared = folder / "compared.html"
    words = ["report", *models[:4], *switches, "--rules", str(mine), "--against", "packaged"]
    assert main([*words, "--bench", str(measured(folder)), "--out", str(compared)]) == 0
    return folder


def measured(folder: Path) -> Path:
    """What moe-rules bench would write of one layer on an H100; the times are made up."""
    import json

    times = {"ours": (30.0, 60.0, 400.0), "vllm_triton": (36.0, 75.0, 430.0)}
    run = {
        "device": "NVIDIA H100 80GB HBM3", "date": "2026-01-01", "torch": "0", "triton": "0",
        "seed": 0, "peers": {"vllm_triton": "made up"},
    }  # fmt: skip
    measurements = [
        {
            "scheme": "fp8_block", "shape": "qwen3-30b-a3b", "routing": "uniform",
            "num_tokens": tokens, "kernel": kernel, "us": us, "eager_us": us, "floor_us": floor,
            "bound": "bytes", "gbps": 1.0, "tflops": 1.0, "relative_error": 0.0, "call_bytes": None,
        }
        for kernel, all_us in times.items()
        for tokens, us, floor in zip((1, 64, 4096), all_us, (20.0, 50.0, 300.0), strict=True)
    ]  # fmt: skip
    out = folder / "bench"
    out.mkdir()
    results = {"ours": "ours", "run": run, "measurements": measurements, "failures": []}
    results |= {"launches": [], "picks": [], "declined": [], "peer_kernels": {}}
    (out / "layers.json").write_text(json.dumps(results))
    return out


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Keeps a screenshot, where somebody wants to look at it."""
    folder = os.environ.get("MOE_RULES_PICTURES")

    def keep(page: Page, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{name}.png")

    return keep
