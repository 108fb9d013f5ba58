"""The plugin does nothing unless it is asked to, and says what it can be asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from moe_rules.integrations.vllm.mode import MODE_VARIABLE, Mode, mode_from_environ


@pytest.mark.parametrize(
    ("word", "mode"),
    [("off", Mode.OFF), ("on", Mode.ON), (" Shadow ", Mode.SHADOW), ("", Mode.OFF)],
)
def test_words(word: str, mode: Mode) -> None:
    assert mode_from_environ({MODE_VARIABLE: word}) is mode


def test_unset_is_off() -> None:
    assert mode_from_environ({}) is Mode.OFF


@pytest.mark.parametrize("word", ["yes", "1", "onn", "off,shadow"])
def test_other_words_are_errors_that_name_the_right_ones(word: str) -> None:
    with pytest.raises(ValueError, match=f"MOE_RULES_VLLM='{word}' is none of off, on, shadow"):
        mode_from_environ({MODE_VARIABLE: word})


def test_off_imports_nothing_more() -> None:
    code = (
        "import sys; from moe_rules.integrations.vllm import register; register(); "
        "print(*(m for m in sys.modules if m.startswith(('moe_rules.', 'yaml', 'torch'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {
        "moe_rules.version",
        "moe_rules.integrations",
        "moe_rules.integrations.vllm",
        "moe_rules.integrations.vllm.mode",
    }
