"""What counts of a source: what is cited, what that uses, and who says it again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moe_rules.drift.citations import CallerSources
from moe_rules.drift.reading import read_release
from moe_rules.drift.source import Source, SourceError
from moe_rules.drift.stored import as_text, releases
from moe_rules.drift.stored import read as stored
from moe_rules.drift.stored import write as store
from tests.drift.conftest import CITED, Read, Write

PACKAGE = "engine_package"
ORDER = ("oracles", "fp8", "priority")


def test_what_is_cited_and_what_it_uses(read: Read) -> None:
    parts = {name.partition(":")[2]: said for name, said in read().parts().items()}
    assert parts["select_backend"] == {("oracles", "fp8")}
    assert parts["order"] == parts["Parallel.several"] == parts["Parallel.size"] == {ORDER}
    assert parts["Config.parallel"] == {ORDER}
    assert parts["Backend.SLOW"] == {ORDER}
    assert parts["Backend.FAST"] == {ORDER, ("oracles", "fp8", "backends")}
    assert parts["SWITCH"] == parts["Fast._takes"] == {("kernels", "Fast")}
    assert parts["helper"] == parts["LIMIT"] == {("kernels", "Slow")}
    assert parts["Base.supported"] == {("kernels", "Fast"), ("kernels", "Slow")}
    assert parts["Fast"] == {("oracles", "fp8", "backends"), ("kernels", "Fast")}
    assert parts["Method.__init__"] == {("models.yaml",)}
    unused = {"OTHER", "Backend.UNUSED", "Config.unused", "convert", "Fast.apply", "Method.apply"}
    assert not unused & set(parts)
    assert "switches" not in parts


def test_callers_belong_to_the_rows_that_a_registry_names(write: Write) -> None:
    registry = 'LIST = {"Model": ("models", "Method"), "Other": ("oracle", "convert")}'
    folder = write()
    (folder / PACKAGE / "engine" / "registry.py").write_text(registry)
    callers = CallerSources(of=["select_*"], rows="rows", registry=f"{PACKAGE}.engine.registry")
    cited = CITED.model_copy(update={"callers": {"models.yaml": callers}})
    parts = read_release(Source(folder, PACKAGE), cited).parts()
    assert parts[f"{PACKAGE}.engine.models:Method.__init__"] == {("models.yaml", "rows", "Model")}


@pytest.mark.parametrize(
    "text",
    ["class Base(Base.Inner):", "itself: 'itself'\nclass Base(itself):", "class Base(Slow):"],
)
def test_what_leads_back_to_itself_ends_there(read: Read, text: str) -> None:
    parts = read(kernels=("class Base:", text)).parts()
    assert any(name.endswith(":select_backend") for name in parts)


def test_where_it_is(read: Read) -> None:
    place = read().definitions[f"{PACKAGE}.engine.oracle:order"].place
    assert str(place) == f"{PACKAGE}/engine/oracle.py:8"


def test_a_wheel_a_folder_and_the_package_itself_are_alike(
    read: Read, write: Write, tmp_path: Path
) -> None:
    folder = write()
    wheel = Path(shutil.make_archive(str(tmp_path / "engine"), "zip", folder))
    for path in (folder, folder / PACKAGE, wheel):
        source = Source(path, PACKAGE)
        assert source.release == "1.0.0"
        assert source.module(f"{PACKAGE}.engine.oracle") is not None
        assert [one.name for one in source.containing(["select_backend"])] == [
            f"{PACKAGE}.engine.models",
            f"{PACKAGE}.engine.oracle",
        ]


def test_what_is_no_source_is_said_to_be_none(write: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path, message in (
        (tmp_path / "file", "a wheel was expected"),
        (tmp_path, "there is no package engine_package"),
        (tmp_path / "nothing", "there is no package engine_package"),
    ):
        with pytest.raises(SourceError, match=message):
            Source(path, PACKAGE)
    folder = write(oracle=("def order", "def def"))
    with pytest.raises(SourceError, match=r"oracle\.py: Python cannot read it"):
        Source(folder, PACKAGE).module(f"{PACKAGE}.engine.oracle")
    without = write("two", _version=("version", "number"))
    with pytest.raises(SourceError, match="which release"):
        assert Source(without, PACKAGE).release


def test_what_is_stored_comes_back(read: Read, tmp_path: Path) -> None:
    release = read()
    folder = tmp_path / "stored"
    store(folder, release)
    assert releases(folder) == ["1.0.0"]
    back = stored(folder, "1.0")
    assert back.parts() == release.parts()
    assert as_text(back) == as_text(release)
    with pytest.raises(SourceError, match=r"no fingerprints of 1\.1 \(of 1\.0\.0\)"):
        stored(folder, "1.1")
