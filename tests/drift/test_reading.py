"""What counts of a source: what is cited, what that uses, and who says it again."""

from __future__ import annotations

import shutil
import zipfile
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


def test_what_a_lambda_takes_is_its_own(read: Read) -> None:
    own = "for backend in sorted(order(config), key=lambda convert: convert)]"
    parts = read(oracle=("for backend in order(config)]", own)).parts()
    assert not [name for name in parts if name.endswith(":convert")]


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
        (tmp_path / "nothing", "there is no such file or folder"),
    ):
        with pytest.raises(SourceError, match=message):
            Source(path, PACKAGE)
    folder = write(oracle=("def order", "def def"))
    with pytest.raises(SourceError, match=r"oracle\.py: Python cannot read it"):
        Source(folder, PACKAGE).module(f"{PACKAGE}.engine.oracle")
    without = write("two", _version=("version", "number"))
    with pytest.raises(SourceError, match="which release"):
        assert Source(without, PACKAGE).release
    elsewhere = write("three", _version=("1.0.0", "../1.0.0"))
    with pytest.raises(SourceError, match="which release"):
        assert Source(elsewhere, PACKAGE).release
    deep = write("four", oracle=("def order", f"deep = {'-' * 10**5}1\ndef order"))
    with pytest.raises(SourceError, match=r"oracle\.py: Python cannot read it"):
        Source(deep, PACKAGE).module(f"{PACKAGE}.engine.oracle")


@pytest.mark.parametrize(
    ("compression", "at", "byte"),
    [
        (zipfile.ZIP_DEFLATED, 6, 1),  # encrypted
        (zipfile.ZIP_DEFLATED, 8, 99),  # compressed in a way that there is not
        (zipfile.ZIP_DEFLATED, 4, 255),  # of a version that there is not
        (zipfile.ZIP_DEFLATED, None, 255),
        (zipfile.ZIP_BZIP2, None, 255),
        (zipfile.ZIP_LZMA, None, 255),
    ],
)
def test_damaged_wheels(tmp_path: Path, compression: int, at: int | None, byte: int) -> None:
    """``at`` is where the byte is in the header of a member (None: in its data)."""
    wheel, inside = tmp_path / "engine.whl", f"{PACKAGE}/__init__.py"
    with zipfile.ZipFile(wheel, "w", compression) as archive:
        archive.writestr(inside, "".join(f"value_{i} = {i}\n" for i in range(999)))
    data = bytearray(wheel.read_bytes())
    central = data.index(b"PK\1\2")
    if at is None:
        data[len(inside) + 50 : len(inside) + 90] = bytes([byte]) * 40
    else:
        data[at] = data[central + at + 2] = byte
    wheel.write_bytes(data)
    with pytest.raises(SourceError):
        Source(wheel, PACKAGE).module(PACKAGE)


def test_a_source_without_anything_that_is_cited(tmp_path: Path) -> None:
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").touch()
    (tmp_path / PACKAGE / "version.py").write_text("__version__ = '1.0'\n")
    with pytest.raises(SourceError, match="nothing is there of what the tables say again"):
        read_release(Source(tmp_path, PACKAGE), CITED)


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
