"""The pages of the site: complete, linked without a dead end, and in step with the tables."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import pytest

from moe_rules.cli import COMMANDS, main
from moe_rules.cli.verifying import judged
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import Location
from moe_rules.language.conditions import Implied
from moe_rules.vocabulary.table_names import PLATFORMS
from tools.site import building, example_report
from tools.site.findings import findings_page
from tools.site.markdown import Page, anchor, place
from tools.site.repository import Linker, source_page, written_pages
from tools.site.tables import platforms, requests

ROOT = packaged_rules().parent
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_TITLE = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    made = [*written_pages(ROOT), *building.generated_pages(), findings_page(judged("tpu"))]
    return {page.path: page for page in made}


def places_of(page: Page) -> set[str]:
    """The ids of a page's headings."""
    return {"", *map(anchor, _TITLE.findall(page.text))}


def test_no_link_is_dead(pages: dict[str, Page]) -> None:
    linker = Linker(ROOT, pages.values(), [example_report.FILE])
    linked = {page.path: linker.linked(page) for page in pages.values()}
    sources = {page.path: page for page in (source_page(ROOT, path) for path in linker.sources)}
    ids = {path: places_of(page) for path, page in linked.items()}
    assert sources
    dead = []
    for page in linked.values():
        if not page.path.startswith(("docs/", "benchmarks/", "README", "CON", "CHANGELOG")):
            for target in _LINK.findall(page.text):
                path, _, fragment = target.partition("#")
                other = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), path))
                if other == example_report.FILE:
                    found = True
                elif other in sources:
                    lines = sources[other].text.count("\n")
                    found = not fragment or int(fragment.removeprefix("__span-0-")) <= lines
                else:
                    found = fragment in ids.get(other, set())
                if not found:
                    dead.append(f"{page.path}: {target}")
    assert dead == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_kernel_page_has_every_requirement_with_its_line(
    pages: dict[str, Page], platform: str
) -> None:
    text = pages[f"platforms/{platform}/kernels.md"].text
    of_kernel = {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}
    kernels = platforms()[platform].kernels
    assert of_kernel.keys() == kernels.keys()
    for name, kernel in kernels.items():
        told = of_kernel[name]
        assert place(kernel.location) in told
        for clause in kernel.condition.clauses():
            if not isinstance(clause, Implied):
                assert f"[`{clause.fact}`]" in told, (name, clause)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_oracle_page_has_every_rule_with_its_line(pages: dict[str, Page], platform: str) -> None:
    for oracle in platforms()[platform].oracles.values():
        text = pages[f"platforms/{platform}/{oracle.name}.md"].text
        cases = [case for cases in oracle.requests.values() for case in cases]
        rules = (*oracle.assume, *oracle.shortcuts, *cases, *oracle.switches, *oracle.adjust)
        for location in (
            *(rule.reason.location for rule in rules),
            *(backend.location for backend in oracle.backends.values()),
            oracle.otherwise.reason.location,
        ):
            assert place(location) in text, location
        order = re.findall(r"^\d+\. \[`(\w+)`\]", text, re.MULTILINE)
        assert order == list(oracle.priority)


def test_the_index_has_every_name(pages: dict[str, Page]) -> None:
    index = pages["names.md"].text
    names = {name for name, *_ in requests()} | {name.replace("_", "-") for name in COMMANDS}
    for rules in platforms().values():
        names |= {*rules.facts, *rules.kernels, *rules.oracles}
        names |= {backend for oracle in rules.oracles.values() for backend in oracle.backends}
    assert [name for name in sorted(names) if f"\n| `{name}` |" not in index] == []


@pytest.mark.parametrize("command", ["explain", "set-priority"])
def test_a_command_page_is_its_help(
    pages: dict[str, Page],
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    main([command, "--help"])
    assert capsys.readouterr().out.rstrip() in pages[f"commands/{command}.md"].text


def test_a_fact_says_who_asks_for_it(pages: dict[str, Page]) -> None:
    section = pages["facts/request.md"].text.split("## `num_tokens`")[1].split("\n## ")[0]
    assert "rules may only compare it" in section
    section = pages["switches.md"].text.split("## `VLLM_USE_DEEP_GEMM`")[1].split("\n## ")[0]
    assert "unset means true" in section
    assert "`vllm/envs.py:1600`" in section
    assert "(/platforms/cuda/fp8.md)" in section


def test_findings_have_the_reasons_of_the_rules(pages: dict[str, Page]) -> None:
    text = pages["findings.md"].text
    assert "## `irrelevant-fact`\n" in text
    assert "vLLM reads it all the same" in text
    assert "not accepted" not in text


def test_every_page_is_in_the_navigation_once(pages: dict[str, Page]) -> None:
    def paths(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        children = entry.values() if isinstance(entry, dict) else entry
        assert not isinstance(children, str)
        return [path for child in children for path in paths(child)]  # type: ignore[attr-defined]

    sources = [Page("rules/x.yaml.md", "rules/x.yaml", "")]
    listed = paths(building.navigation(list(pages.values()), sources))
    assert sorted(listed) == sorted([*pages, "rules/x.yaml.md"])


@pytest.mark.parametrize("path", sorted(page.path for page in written_pages(ROOT)))
def test_lists_are_written_as_both_dialects_read_them(path: str) -> None:
    """GitHub takes what belongs to an item from two spaces on, the site's Markdown from four."""
    in_fence = False
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
        inner = re.match(r" {2,3}(```|[-*] |\d+\. )", line)
        assert in_fence or not inner, f"{path}:{number}: indent by four spaces"
        in_fence ^= line.lstrip().startswith("```")


def test_an_anchor_is_what_markdown_allows() -> None:
    assert anchor("$apply_moe_activation") == "apply_moe_activation"
    assert anchor("FLASHINFER_TRTLLM") == "flashinfer_trtllm"


def test_a_place_without_line_is_the_file() -> None:
    file = Path(packaged_rules(), "tpu.yaml")
    assert place(Location(str(file))) == "[rules/tpu.yaml](/rules/tpu.yaml)"
    assert place(Location(str(file), 7)) == "[rules/tpu.yaml:7](/rules/tpu.yaml#L7)"


def test_features_and_keys_list_the_kernels_that_have_them(pages: dict[str, Page]) -> None:
    lora = pages["facts/sets.md"].text.split("### lora")[1]
    assert "(/platforms/cuda/kernels.md#tritonexperts)" in lora
    assert "(/platforms/cuda/kernels.md#batchedtritonexperts)" not in lora
    keys = pages["facts/quant_keys.md"].text
    nvfp4 = keys.split("### `kNvfp4Static`")[1].split("\n###")[0]
    assert "(/platforms/cuda/kernels.md#cutlassexpertsfp4)" in nvfp4
    assert "(/platforms/cuda/kernels.md#tritonexperts)" not in nvfp4
    dynamic = keys.split("### `kNvfp4Dynamic`")[1].split("\n###")[0]
    assert "No kernel takes weights with it." in dynamic


def test_kernels_are_told_by_kind(pages: dict[str, Page]) -> None:
    kernels = pages["platforms/cuda/kernels.md"].text
    own = kernels.split("## OAITritonMxfp4ExpertsMonolithic\n")[1].split("\n## ")[0]
    assert "- monolithic" in own
    assert "- modular" in kernels.split("## TritonWNA16Experts\n")[1].split("\n## ")[0]
    hashed = pages["facts/sets.md"].text.split("### hash_routing")[1].split("\n###")[0]
    assert "Only monolithic kernels are asked. Supported by:" in hashed
    assert "tritonexperts" not in hashed


def test_the_example_of_a_report_says_nothing_of_where_it_was_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def remember(words: list[str]) -> int:
        model = Path(words[words.index("--model") + 1])
        asked.append((model, model.is_file()))
        return 0

    asked: list[tuple[Path, bool]] = []
    monkeypatch.setattr(example_report, "main", remember)
    monkeypatch.chdir(tmp_path)
    example_report.write_report(ROOT, Path("report.html"))
    assert asked == [(Path(example_report.MODEL), True)]
