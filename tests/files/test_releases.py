"""Which releases the tables know: how they are asked for, and what lies over what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moe_rules.files.problems import RuleFileError
from moe_rules.files.releases import nearest, release_of, releases


def rule_set(tmp_path: Path, text: str) -> Path:
    (tmp_path / "releases.yaml").write_text(text)
    for name in re.findall(r"\b\d+\.\d+(?=\.\d)", text)[1:]:
        (tmp_path / "releases" / name).mkdir(parents=True, exist_ok=True)
    return tmp_path


def test_the_latest_is_the_rule_set_itself_and_others_lie_over_it(tmp_path: Path) -> None:
    rules = rule_set(tmp_path, "releases: [0.34.0, 0.33.1, 0.32.0, 0.31.0]\n")
    found = releases(rules)
    assert [(one.name, one.version) for one in found] == [
        ("0.34", "0.34.0"), ("0.33", "0.33.1"), ("0.32", "0.32.0"), ("0.31", "0.31.0"),
    ]  # fmt: skip
    assert found[0].folders == ()
    assert found[2].folders == (rules / "releases/0.33", rules / "releases/0.32")
    assert found[3].folders == (*found[2].folders, rules / "releases/0.31")


@pytest.mark.parametrize("word", ["0.33", "0.33.1", "v0.33"])
def test_a_release_by_its_name_or_version(tmp_path: Path, word: str) -> None:
    rules = rule_set(tmp_path, "releases: [0.34.0, 0.33.1]\n")
    assert release_of(word, rules).version == "0.33.1"


@pytest.mark.parametrize(
    ("word", "near"),
    [("0.31", "0.32"), ("0.33.1", "0.33"), ("1.0", "0.33"), ("0.3", "0.32"), ("main", "0.33")],
)
def test_another_release_is_an_error_that_names_the_nearest(
    tmp_path: Path, word: str, near: str
) -> None:
    rules = rule_set(tmp_path, "releases: [0.33.0, 0.32.0]\n")
    with pytest.raises(RuleFileError, match=rf"releases.yaml:1:.* {word!r}; .*there are: {near} "):
        release_of(word, rules)


def test_a_release_is_text() -> None:
    with pytest.raises(TypeError, match=r"a release is text, as '0\.32', and not 0\.32"):
        release_of(0.32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "near"),
    [
        ("0.33.0", "0.33"),
        ("0.33.2rc1", "0.33"),
        ("0.32.5", "0.32"),
        ("0.31.9.dev3", "0.32"),
        ("dev", "0.33"),
        ("", "0.33"),
        ("9" * 5000, "0.33"),
        ("0." + "9" * 5000, "0.32"),
    ],
)
def test_the_nearest_release_of_a_version(version: str, near: str) -> None:
    assert nearest(version, releases()).name == near


def test_a_rule_set_without_a_list_has_no_releases(tmp_path: Path) -> None:
    assert releases(tmp_path) == ()
    with pytest.raises(RuleFileError, match="nor of any other"):
        release_of("0.33", tmp_path)


@pytest.mark.parametrize(
    "text", ["releases: []\n", "releases: [0.33]\n", "releases: 0.33.0\n", "- 0.33.0\n"]
)
def test_what_is_no_list_of_versions(tmp_path: Path, text: str) -> None:
    with pytest.raises(RuleFileError, match=r"releases.yaml:1.*the latest first"):
        releases(rule_set(tmp_path, text))


@pytest.mark.parametrize("older", ["0.33.0", "0.33.1", "0.34.0"])
def test_each_release_stands_once_after_the_later_ones(tmp_path: Path, older: str) -> None:
    with pytest.raises(RuleFileError, match=rf"releases.yaml:1:20: .*{older} is no release before"):
        releases(rule_set(tmp_path, f"releases: [0.33.0, {older}]\n"))


def test_every_older_release_has_a_folder_and_nothing_else(tmp_path: Path) -> None:
    rules = rule_set(tmp_path, "releases: [0.33.0, 0.32.0]\n")
    (rules / "releases/.hidden").mkdir()
    (rules / "releases/0.32").rmdir()
    for name in ("0.33", "0.31"):
        (rules / "releases" / name).mkdir()
    with pytest.raises(RuleFileError) as wrong:
        releases(rules)
    said = (str(one).partition("releases.yaml:")[2] for one in wrong.value.problems)
    assert [re.split(";| \\[", text)[0] for text in said] == [
        "1:11: error: releases/0.31 is the folder of no older release here",
        "1:11: error: releases/0.33 is the folder of no older release here",
        "1:20: error: there is no folder releases/0.32, of what 0.32.0 decides otherwise than "
        "0.33.0",
    ]


def test_folders_of_releases_have_a_list(tmp_path: Path) -> None:
    (tmp_path / "releases/0.32").mkdir(parents=True)
    with pytest.raises(RuleFileError, match=r"releases.yaml: .*/0.32 is the folder of no older"):
        releases(tmp_path)


def test_the_packaged_rules_have_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_rules.files.releases.packaged_rules", lambda: tmp_path)
    with pytest.raises(RuleFileError, match=r"releases.yaml: .*there is no such file; a list of"):
        releases()


def test_every_older_packaged_release_has_a_folder() -> None:
    latest, *older = releases()
    assert latest.folders == ()
    assert [one.folders[-1].name for one in older] == [one.name for one in older]
