"""What all tests share: Triton's interpreter, how properties are tried, small rule folders."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from moe_rules.selectors.selector import Selector
    from moe_rules.vocabulary.fact_values import FactValue


# Without a GPU, Triton kernels run in Triton's interpreter. Triton reads this when it is imported,
# which any test may do first.
if find_spec("torch") is not None:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")

# What tests make of rule files is kept away from the user's.
os.environ["MOE_RULES_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "moe_rules")

# A busy machine is no failure. In CI, the same examples are tried every time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

SMALL = """
platform: cuda
oracles:
  unquantized:
    priority: [FAST, SLOW]
    requests: {fast: FAST, slow: SLOW}
    backends:
      FAST: {kernels: [FastExperts]}
      SLOW: {kernels: [SlowExperts]}
kernels:
  FastExperts:
    schemes: [{weight: none, activation: none}]
    requires: {compute_capability: ">=9.0", num_experts: "<=64"}
  SlowExperts:
    supports: [lora, no_act_and_mul]
"""

MakeRules = Callable[..., "Selector"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file below the test's folder."""

    def write_file(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, bytes):
            path.write_bytes(text)
        else:
            path.write_text(textwrap.dedent(text))
        return path

    return write_file


@pytest.fixture
def small(write: Callable[[str, str], Path], tmp_path: Path) -> MakeRules:
    """A selector over a small rule set on a 9.0 device, with overlays and other constants."""
    # Imported here: the tests of kernels also run where pydantic is not installed.
    from moe_rules.language.ruleset import load_platform
    from moe_rules.selectors.selector import Selector

    def make(*overlays: str, rules: str = SMALL, **constants: FactValue) -> Selector:
        write("packaged/cuda.yaml", rules)
        paths = [write(f"overlay{i}/cuda.yaml", text) for i, text in enumerate(overlays)]
        loaded = load_platform("cuda", paths, packaged=tmp_path / "packaged")
        return Selector(loaded, {"device": "cuda", "compute_capability": (9, 0), **constants})

    return make
