"""The plugin decides by the tables of the vLLM that is installed, or says that there are none."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest

from moe_rules.integrations.vllm.plugin import logger, say_version
from moe_rules.oracles.vllm_machine import vllm_release


@pytest.fixture(autouse=True)
def said_nothing() -> None:
    say_version.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))


def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged as a warning from now on."""
    said: list[str] = []
    monkeypatch.setattr(logger, "warning", lambda text, *values: said.append(text % values))
    assert logger.isEnabledFor(logging.WARNING)
    say_version()
    say_version()
    return said


@pytest.mark.parametrize(
    ("version", "release"),
    [("0.33.0", "0.33"), ("0.32.0", "0.32"), ("0.32.0+cpu", "0.32"), ("0.33.0+cu129", "0.33")],
)
def test_a_release_with_tables(monkeypatch: pytest.MonkeyPatch, version: str, release: str) -> None:
    installed(monkeypatch, version)
    assert vllm_release().name == release
    assert warnings(monkeypatch) == []


@pytest.mark.parametrize(
    ("version", "near"), [("0.31.2", "0.32.0"), ("0.32.1", "0.32.0"), ("0.34.0rc1", "0.33.0")]
)
def test_a_release_without_tables(monkeypatch: pytest.MonkeyPatch, version: str, near: str) -> None:
    installed(monkeypatch, version)
    assert vllm_release().version == near
    (said,) = warnings(monkeypatch)
    assert f"there are no tables of vLLM {version}; those of {near} come nearest" in said
