"""A function is replaced in every module that holds it, whatever was imported first."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_rules.integrations.vllm.replacing import original_of, replace_functions

FILES = {
    "__init__.py": "",
    "oracle.py": "def select(x):\n    return 'theirs', x\n\ndef other(x):\n    return x\n",
    "caller.py": "from {package}.oracle import select, other\ndef call(x):\n    return select(x)\n",
    "alias.py": "from {package}.oracle import select as chosen\n",
    "lazy.py": "def call(x):\n    from {package}.oracle import select\n    return select(x)\n",
}
_numbers = itertools.count()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"replaced_{next(_numbers)}"
    (tmp_path / name).mkdir()
    for file, text in FILES.items():
        (tmp_path / name / file).write_text(text.replace("{package}", name))
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield name
    sys.meta_path[:] = finders
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def ours(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def select(x: int) -> tuple[str, int]:
        return f"ours for {name.rpartition(':')[2]}", x

    return select


@pytest.mark.parametrize(
    "before",
    [[], ["oracle"], ["caller"], ["alias", "caller"], ["oracle", "lazy"]],
    ids=lambda modules: "+".join(modules) or "nothing imported",
)
def test_every_holder(package: str, before: list[str]) -> None:
    for module in before:
        importlib.import_module(f"{package}.{module}")
    replace_functions([f"{package}.oracle:select"], ours)
    oracle, caller, alias, lazy = (
        importlib.import_module(f"{package}.{name}")
        for name in ("oracle", "caller", "alias", "lazy")
    )
    for function in (oracle.select, caller.select, caller.call, alias.chosen, lazy.call):
        assert function(1) == ("ours for select", 1)
    assert oracle.select is caller.select is alias.chosen
    assert original_of(oracle.select)(1) == ("theirs", 1)
    assert original_of(caller.other) is None
    assert caller.other(2) == 2


def test_twice_is_as_once(package: str) -> None:
    for _ in range(2):
        replace_functions([f"{package}.oracle:select"], ours)
    caller = importlib.import_module(f"{package}.caller")
    replace_functions([f"{package}.oracle:select"], ours)
    original = original_of(caller.select)
    assert original is not None
    assert original_of(original) is None


def test_looking_for_a_module_is_not_importing_it(package: str) -> None:
    replace_functions([f"{package}.oracle:select"], ours)
    assert importlib.util.find_spec(f"{package}.oracle") is not None
    assert f"{package}.oracle" not in sys.modules
    oracle = importlib.import_module(f"{package}.oracle")
    assert oracle.select(1) == ("ours for select", 1)
    assert importlib.reload(oracle).select(1) == ("ours for select", 1)


def test_what_is_not_there_is_left_alone(package: str) -> None:
    replace_functions([f"{package}.oracle:no_such", f"{package}.missing:select"], ours)
    assert importlib.import_module(f"{package}.oracle").select(1) == ("theirs", 1)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{package}.missing")
