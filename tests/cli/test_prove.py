"""prove: the packaged policies hold, others are contradicted by deployments that explain takes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Command

OURS = """
policies:
  - name: B200 takes FlashInfer's kernels, whatever the layer
    on: {platform: cuda, oracle: unquantized}
    when: {compute_capability: "10.0", moe_backend: auto, flashinfer_trtllm_fused_moe: true}
    always: {backend: FLASHINFER_TRTLLM}
"""


EXAMPLE = """
oracle: unquantized
machine: b200
facts: {num_experts: 8, experts_per_token: 2, hidden_dim: 64, intermediate_size: 64}
examples: [{name: one, expect: {how: auto}}]
"""


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "ours.policy.yaml"
    path.write_text(OURS)
    return path


def test_the_packaged_policies_are_proven(cli: Command) -> None:
    answer = cli("prove")
    assert (answer.code, answer.out.count("proven")) == (0, 1), answer.out
    assert cli("prove", "--format", "json").json["errors"] == 0


def test_a_contradiction_that_explain_takes(cli: Command, ours: Path) -> None:
    answer = cli("prove", ours)
    assert answer.code == 1
    line = answer.out.splitlines()[0]
    assert f"{ours}:3:" in line
    said = line.partition("unquantized on cuda: ")[2].partition(" comes out")[0]
    command = line.partition("see: ")[2].partition(" [contradicted]")[0]
    explained = cli(*shlex.split(command)[1:], "--format", "json").json
    assert f"{explained['backend']} / {explained['kernel']}" == said
    assert explained["backend"] != "FLASHINFER_TRTLLM"


def test_policies_beside_an_overlay_are_about_it(cli: Command, ours: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    step = "{when: {moe_backend: auto}, take: FLASHINFER_TRTLLM}"
    (mine / "cuda.yaml").write_text(
        f"platform: cuda\noracles: {{unquantized: {{shortcuts: [{step}]}}}}\n"
    )
    assert cli("prove", ours, "--rules", mine).code == 0
    (mine / "ours.policy.yaml").write_text(OURS)
    for words in ([mine], [mine / "ours.policy.yaml"], [mine, "--rules", mine]):
        assert cli("prove", *words).code == 0
    assert cli("check", mine).code == 0


def test_a_policy_that_says_nothing_is_a_warning(cli: Command, ours: Path) -> None:
    ours.write_text(OURS.replace("moe_backend: auto", "use_ep: true, ep_size: 1"))
    answer = cli("prove", ours)
    assert answer.code == 0
    assert "[empty-policy]" in answer.out


def test_what_is_wrong(cli: Command, ours: Path, tmp_path: Path) -> None:
    ours.write_text(OURS.replace("FLASHINFER_TRTLLM", "FLASHINFER_TRT"))
    answer = cli("prove", ours)
    assert answer.code == 1
    assert "no backend is called 'FLASHINFER_TRT'; did you mean 'FLASHINFER_TRTLLM'?" in answer.out
    ours.write_text(OURS.replace("always", "alwys"))
    assert cli("prove", ours).code == 1
    assert "alwys" in cli("prove", ours).out
    assert "alwys" in cli("check", ours).out
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cuda.yaml").write_text("platform: cuda\n")
    assert "no file of policies" in cli("prove", tmp_path / "empty").err
    assert cli("prove", tmp_path / "nothing").code == 2


@pytest.mark.parametrize("kind", ["json", "github", "sarif", "junit"])
@pytest.mark.parametrize("command", ["prove", "test", "verify"])
def test_what_is_wrong_is_said_in_every_format(
    cli: Command, ours: Path, tmp_path: Path, command: str, kind: str
) -> None:
    ours.write_text(OURS.replace("compute_capability", "compute_capabilty"))
    if command == "prove":
        answer = cli(command, ours, "--format", kind)
        assert (answer.code, answer.err) == (1, "")
        assert "ours.policy.yaml" in answer.out
        assert "there is no fact" in answer.out
    (tmp_path / "cuda.yaml").write_text("platform: cuda\noracle: {}\n")
    (tmp_path / "a.test.yaml").write_text(EXAMPLE)
    ours.write_text(OURS)
    answer = cli(command, tmp_path, "--format", kind)
    assert (answer.code, answer.err) == (2, "")
    assert "cuda.yaml" in answer.out
    assert "unknown-key" in answer.out
