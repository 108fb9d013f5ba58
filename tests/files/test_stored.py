"""What is stored is never stale, never taken from others, and changes no decision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.files.problems import RuleFileError
from moe_rules.files.stored import KEPT, VARIABLE, stored, user_cache
from moe_rules.language.plain_form import to_plain
from moe_rules.language.reading import linked
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import (
    VOCABULARY,
    load_platform,
    overlay_path,
    packaged_rules,
    platform_files,
    rule_files,
    shared_files,
)
from moe_rules.vocabulary.table_names import PLATFORMS
from tests.conftest import SMALL

Write = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Makes a value, and counts how often."""

    def __init__(self, value: object = 1) -> None:
        self.value = value
        self.count = 0

    def __call__(self) -> object:
        self.count += 1
        return self.value


def test_what_is_stored_is_not_made_again(write: Write) -> None:
    file, maker = write("a.yaml", "a"), Maker({"a": [1, None, "x"]})
    assert [stored("thing", [file], ["files"], maker) for _ in range(3)] == [maker.value] * 3
    assert maker.count == 1


def test_it_is_made_again_for_another_content_purpose_or_code(write: Write) -> None:
    file, maker = write("a.yaml", "a"), Maker()
    stored("thing", [file], ["files"], maker)
    stored("other thing", [file], ["files"], maker)
    stored("thing", [file], ["files", "vocabulary"], maker)
    stored("thing", [write("a.yaml", "b")], ["files"], maker)
    assert maker.count == 4


def test_files_are_told_apart_however_they_are_cut(write: Write) -> None:
    maker = Maker()
    stored("thing", [write("a", "xy"), write("b", "z")], [], maker)
    stored("thing", [write("a", "x"), write("b", "yz")], [], maker)
    assert maker.count == 2


def test_nothing_is_kept_where_none_is_to_be(
    write: Write, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    file, maker = write("a.yaml", "a"), Maker()
    stored("thing", [file], [], maker)
    stored("thing", [file], [], maker)
    assert maker.count == 2
    assert user_cache() is None
    assert not cache.exists()


def test_a_folder_that_takes_nothing_is_no_error(write: Write, cache: Path) -> None:
    cache.write_text("a file, no folder")
    assert stored("thing", [write("a.yaml", "a")], [], Maker(7)) == 7


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owner")
def test_nothing_is_left_of_what_cannot_be_written(write: Write, cache: Path) -> None:
    file, maker = write("a.yaml", "a"), Maker()
    stored("thing", [file], ["files"], maker)
    (kept,) = cache.iterdir()
    kept.unlink()
    kept.mkdir()  # which no file takes the place of
    assert stored("thing", [file], ["files"], maker) == maker.value
    assert list(cache.iterdir()) == [kept]


def test_a_file_that_others_may_write_is_not_taken(write: Write, cache: Path) -> None:
    file, maker = write("a.yaml", "a"), Maker()
    stored("thing", [file], [], maker)
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    kept.chmod(0o622)
    stored("thing", [file], [], maker)
    assert maker.count == 2


@pytest.mark.parametrize("junk", [b"", b"{}", b"\x00\xff\n", b"0" * 64 + b"\n[2]"])
def test_a_file_that_was_not_written_so_is_not_taken(
    write: Write, cache: Path, junk: bytes
) -> None:
    file = write("a.yaml", "a")
    stored("thing", [file], [], Maker(1))
    (kept,) = cache.iterdir()
    kept.write_bytes(junk)
    assert stored("thing", [file], [], Maker(1)) == 1


def test_a_file_that_changes_while_it_is_read_is_not_stored(write: Write, cache: Path) -> None:
    file = write("a.yaml", "a")

    def make() -> str:
        write("a.yaml", "b")
        return "made of one or the other"

    stored("thing", [file], [], make)
    assert not cache.exists()


def test_the_latest_files_are_kept(write: Write, cache: Path) -> None:
    cache.mkdir()
    for i in range(KEPT + 3):
        old = cache / f"{i}.json"
        old.write_text("{}")
        os.utime(old, (i, i))
    stored("thing", [write("a.yaml", "a")], [], Maker())
    names = {path.stem for path in cache.iterdir()}
    assert len(names) == KEPT
    assert "0" not in names
    assert str(KEPT + 2) in names


OVERLAYS = ["", *sorted(path.name for path in (packaged_rules() / "overlays").iterdir())]


def written(rules: PlatformRules) -> str:
    """Text in which true is not 1."""
    vocabulary = str(packaged_rules() / "vocabulary.yaml")
    return json.dumps(to_plain(rules, [*rules.files, vocabulary]))


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_stored_rules_are_those_that_are_read(platform: str, overlay: str) -> None:
    overlays = [overlay_path(overlay)] if overlay else []
    own, shared = platform_files(platform, packaged_rules()), shared_files(packaged_rules())
    words = packaged_rules() / VOCABULARY
    files = [file for path in overlays for file in rule_files(path)]
    read = linked(platform, own, shared, files, [words])
    for _ in range(2):
        found = load_platform(platform, overlays)
        assert found == read
        assert written(found) == written(read)


def test_stored_rules_say_where_they_stand_now(write: Write, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(f"{folder}/cuda.yaml", SMALL)
        rules = load_platform("cuda", packaged=tmp_path / folder)
        assert rules.kernels["FastExperts"].location.file == str(tmp_path / folder / "cuda.yaml")
        assert rules.kernels["FastExperts"].location.line == 11


def test_a_wrong_file_is_the_same_error_each_time(write: Write, tmp_path: Path) -> None:
    write("packaged/cuda.yaml", SMALL.replace("priority", "prioritie"))
    for _ in range(2):
        with pytest.raises(RuleFileError, match="unknown key 'prioritie'"):
            load_platform("cuda", packaged=tmp_path / "packaged")


def test_a_packaged_file_and_an_overlay_of_one_content_are_not_one(
    write: Write, tmp_path: Path
) -> None:
    """Read as a packaged file, a kernel declared twice is an error; as an overlay it adds."""
    write("packaged/cuda.yaml", SMALL)
    more = "platform: cuda\nkernels: {SlowExperts: {requires: {num_experts: 8}}}\n"
    load_platform("cuda", [write("more/cuda.yaml", more)], packaged=tmp_path / "packaged")
    write("packaged/cuda/more.yaml", more)
    with pytest.raises(RuleFileError, match="declared already"):
        load_platform("cuda", packaged=tmp_path / "packaged")


def test_a_shared_file_and_one_of_the_platform_of_one_content_are_not_one(
    write: Write, tmp_path: Path
) -> None:
    """In the folder of one platform, a file of several would be read by none of the others."""
    write("packaged/cuda.yaml", SMALL)
    more = "platform: [cuda, rocm]\noracles: {unquantized: {about: none}}\n"
    shared = write("packaged/shared/more.yaml", more)
    load_platform("cuda", packaged=tmp_path / "packaged")
    shared.unlink()
    write("packaged/cuda/more.yaml", more)
    with pytest.raises(RuleFileError, match="says 'platform: cuda, rocm'"):
        load_platform("cuda", packaged=tmp_path / "packaged")


def test_a_file_that_is_named_is_rules_whatever_was_stored_of_its_folder(write: Write) -> None:
    rules = write("mine/cuda.yaml", "platform: cuda\n")
    machine = write("mine/recorded.yaml", "platform: {device: cuda}\nsoftware: {}\n")
    load_platform("cuda", [rules.parent])
    with pytest.raises(RuleFileError, match="recorded"):
        load_platform("cuda", [rules, machine])


def test_words_of_an_overlay_are_not_remembered_beyond_an_edit(
    write: Write, tmp_path: Path
) -> None:
    adjust = "{when: {activation: $ours}, first: [TRITON]}"
    write("mine/cuda.yaml", f"platform: cuda\noracles: {{fp8: {{adjust: [{adjust}]}}}}\n")
    for activation in ("silu", "gelu"):
        write("mine/words.yaml", f"sets: {{ours: [{activation}]}}\n")
        rules = load_platform("cuda", [tmp_path / "mine"])
        assert rules.oracles["fp8"].adjust[-1].when.words() == f"activation: {activation}"


FIRST = """
import json, sys
from moe_rules import FusedMoEConfig, select_backend
from moe_rules.models import derive_layers
from moe_rules.machines.machine import load_machine
from pathlib import Path
config = json.loads(Path(sys.argv[1]).read_text())
layers = derive_layers(config, load_machine("h100").facts())
select_backend("unquantized", layers[0].moe, machine="h100", environ={})
print(*sys.modules)
"""


def test_a_decision_reads_neither_yaml_nor_pydantic() -> None:
    model = Path(__file__).parents[2] / "examples/models/Mixtral-8x7B.json"
    command = [sys.executable, "-c", FIRST, str(model)]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "moe_rules.language.rules" in loaded
    readers = {"yaml", "pydantic", "jsonschema", "regex", "rich", "torch", "triton"}
    assert not readers.intersection(loaded)
