"""What is packaged: citations and fingerprints, in step with the tables and with the sources."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from moe_rules.drift import stored
from moe_rules.drift.citations import read_sources
from moe_rules.drift.places import Places
from moe_rules.drift.reading import read_release
from moe_rules.drift.source import Source
from moe_rules.files.packaged import packaged_rules
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.table_names import ORACLES, PLATFORMS

FOLDER = stored.folder_of()
LATEST = stored.releases(FOLDER)[-1]


def sources() -> list[Path]:
    """Sources of releases that are at hand: MOE_RULES_VLLM_SOURCES, and what is installed."""
    named = os.environ.get("MOE_RULES_VLLM_SOURCES", "")
    found = importlib.util.find_spec(read_sources()[0].package)
    installed = [Path(found.origin).parent] if found and found.origin else []
    return [*map(Path, filter(None, named.split(os.pathsep))), *installed]


def test_every_oracle_is_cited() -> None:
    cited, _ = read_sources()
    assert set(cited.oracles) == set(ORACLES)


def test_kernels_of_the_latest_release_are_those_of_the_tables() -> None:
    release = stored.read(FOLDER, LATEST)
    read = {part[1] for part in release.cited if part[0] == "kernels"}
    tables = {
        kernel.class_name.rpartition(":")[2]
        for name in PLATFORMS
        for kernel in load_platform(name).kernels.values()
    }
    assert read == tables


def test_every_part_that_is_cited_has_a_place() -> None:
    places = Places(packaged_rules())
    for part in stored.read(FOLDER, LATEST).cited:
        found = places.of([part])
        assert found, part
        assert all(Path(place.file).is_file() for place in found)


def test_what_platforms_share_is_a_place_once() -> None:
    found = Places(packaged_rules()).of([("oracles", "w4a8")])
    files = [Path(place.file).relative_to(packaged_rules()).as_posix() for place in found]
    assert files == ["cuda/w4a8.yaml", "rocm/w4a8.yaml", "shared/w4a8.yaml"]


@pytest.mark.parametrize("path", sources(), ids=str)
def test_fingerprints_are_in_step_with_the_source(path: Path) -> None:
    cited, _ = read_sources()
    source = Source(path, cited.package)
    if source.release not in stored.releases(FOLDER):
        pytest.skip(f"there are no tables of {source.release}")
    file = FOLDER / f"{source.release}.json"
    assert stored.as_text(read_release(source, cited)) == file.read_text()
