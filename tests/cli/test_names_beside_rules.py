"""check: names of backends, kernels and machines in files beside rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command

Write = Callable[[str, str | bytes], Path]

EXAMPLES = """\
oracle: unquantized
machine: b200
facts: {num_experts: 8, experts_per_token: 2, hidden_dim: 4096, intermediate_size: 14336}
examples:
  - name: one
    expect: {backend: TRITON, kernel: TritonExperts, order: [TRITON, MINE]}
"""
POLICIES = """\
policies:
  - name: one
    on: {platform: cuda}
    when: {compute_capability: "9.0"}
    never: {kernel: [MineExperts, Aiter*], backend: {not: MINE}}
"""
MINE = """\
platform: cuda
oracles: {unquantized: {backends: {MINE: {kernels: [MineExperts]}}, adjust: [{first: [MINE]}]}}
kernels: {MineExperts: {}}
"""


@pytest.mark.parametrize(
    ("name", "text", "old", "new", "finding"),
    [
        ("cuda.test.yaml", EXAMPLES, "backend: TRITON", "backend: TRITNO",
         "cuda.test.yaml:6:23: error: no backend is called 'TRITNO'; did you mean 'TRITON'"),
        ("cuda.test.yaml", EXAMPLES, "kernel: TritonExperts", "kernel: TritonExpert",
         "cuda.test.yaml:6:39: error: no kernel is called 'TritonExpert'; did you mean"),
        ("cuda.test.yaml", EXAMPLES, "[TRITON, MINE]", "[TRITON, MNE]",
         "cuda.test.yaml:6:70: error: no backend is called 'MNE'; did you mean 'MINE'"),
        ("cuda.test.yaml", EXAMPLES, "machine: b200", "machine: b20",
         "cuda.test.yaml:2:10: error: no machine is named 'b20'"),
        ("cuda.test.yaml", EXAMPLES, "backend: TRITON", "backend: CPU",
         "cuda.test.yaml:6:23: error: no backend is called 'CPU'"),
        ("our.policy.yaml", POLICIES, "MineExperts", "MinExperts",
         "our.policy.yaml:5:13: error: no kernel is called 'MinExperts'; did you mean"),
        ("our.policy.yaml", POLICIES, "Aiter*", "Aitr*",
         "our.policy.yaml:5:13: error: no kernel is called 'Aitr*'"),
        ("our.policy.yaml", POLICIES, "{not: MINE}", "{not: MIN}",
         "our.policy.yaml:5:44: error: no backend is called 'MIN'; did you mean 'MINE'"),
    ],
)  # fmt: skip
def test_names_that_are_not_there(
    cli: Command, write: Write, name: str, text: str, old: str, new: str, finding: str
) -> None:
    folder = write("mine/cuda.yaml", MINE).parent
    file = write(f"mine/{name}", text)
    for path in (folder, file):
        answer = cli("check", path)
        assert answer.code == 0, answer.out
    write(f"mine/{name}", text.replace(old, new))
    for path in (folder, file):
        answer = cli("check", path)
        assert answer.code == 1
        assert finding in answer.out


def test_names_wait_for_rules_that_are_right(cli: Command, write: Write) -> None:
    write("mine/cuda.yaml", MINE.replace("kernels: {", "kernls: {"))
    file = write("mine/cuda.test.yaml", EXAMPLES.replace("TRITON,", "TRITNO,"))
    answer = cli("check", file.parent)
    assert "did you mean 'kernels'" in answer.out
    assert "TRITNO" not in answer.out
