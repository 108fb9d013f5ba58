"""``--release``: an older release of the reference decides, in whatever is asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import LAYER, ROOT, Command

SAMPLES = ROOT / "tests" / "samples"
OLDER = ["--release", "0.32"]
AITER = ["--oracle", "unquantized", "--machine", "mi300x", "--set", "VLLM_ROCM_USE_AITER=1"]
MARLIN = ["--oracle", "unquantized", "--machine", "h100", "--moe-backend", "marlin"]


@pytest.mark.parametrize(
    ("release", "kernel"),
    [
        ([], "AiterUnquantizedExperts"),
        (["--release", "0.33"], "AiterUnquantizedExperts"),
        (OLDER, "AiterExperts"),
        (["--release", "0.32.0"], "AiterExperts"),
    ],
)
def test_select(cli: Command, release: list[str], kernel: str) -> None:
    answer = cli("select", *AITER, *LAYER, *release, "--format", "json")
    assert answer.json["kernel"] == kernel


@pytest.mark.parametrize(
    "words",
    [
        ["select", *AITER, *LAYER],
        ["list", "backends"],
        ["list", "machines"],
        ["facts"],
        ["conformance", SAMPLES / "0.32"],
        ["matrix", "--model", ROOT / "examples/models/Qwen3-30B-A3B.json"],
        ["test", ROOT / "rules/cuda"],
        ["prove"],
        ["check"],
        ["verify", ROOT / "rules/overlays/corrected/xpu.yaml"],
        ["diff", "packaged", "corrected"],
    ],
)
def test_an_unknown_release_is_named_with_the_nearest(cli: Command, words: list[object]) -> None:
    answer = cli(*words, "--release", "0.31")
    assert answer.code == 2
    assert "there are no tables of release '0.31'; the nearest that there are: 0.32" in answer.err
    assert "releases.yaml:" in answer.err


def test_a_request_that_the_release_does_not_have(cli: Command) -> None:
    assert cli("select", *MARLIN, *LAYER).code == 0
    answer = cli("select", *MARLIN, *LAYER, *OLDER)
    assert answer.code == 1
    assert "moe_backend='marlin' is no backend of" in answer.err
    assert "before 0.33" in answer.err
    assert "(0.32/cuda.yaml:" in answer.err


def test_a_backend_that_the_release_does_not_have(cli: Command) -> None:
    about = ["--oracle", "mxfp4", "--machine", "mi350x", *LAYER, *OLDER]
    answer = cli("why-not", "AITER_TRITON_MXFP4_MXFP4", *about)
    assert answer.code == 2
    assert "releases/0.32/rocm.yaml:" in answer.err


def test_a_fact_that_the_release_does_not_have(cli: Command) -> None:
    stated = [*LAYER, "--set", "require_decomposed_backend=true"]
    assert cli("select", *AITER, *stated).code == 0
    answer = cli("select", *AITER, *stated, *OLDER)
    assert answer.code == 2
    assert "require_decomposed_backend is no fact here: New in 0.33" in answer.err
    assert "require_decomposed_backend" in cli("facts").out
    assert "require_decomposed_backend" not in cli("facts", *OLDER).out


def test_a_model_that_the_release_does_not_have(cli: Command, tmp_path: Path) -> None:
    config = {
        "architectures": ["Kolibri1ForCausalLM"], "model_type": "kolibri1",
        "num_experts": 8, "num_experts_per_tok": 2, "hidden_size": 2048, "num_hidden_layers": 2,
        "moe_intermediate_size": 768, "dtype": "bfloat16",
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    about = ["select", "--model", path, "--machine", "h100"]
    assert cli(*about).code == 0
    answer = cli(*about, *OLDER)
    assert answer.code == 2
    assert "Kolibri1ForCausalLM is not in this release of vLLM: vLLM has it from 0.33" in answer.err
    assert "refused" in cli("matrix", *about[1:], *OLDER).out


def test_overlays_lie_over_the_release(cli: Command, tmp_path: Path) -> None:
    mine = tmp_path / "rocm.yaml"
    mine.write_text("platform: rocm\nkernels: {AiterExperts: {requires: {hidden_dim: '>=4096'}}}\n")
    answer = cli("select", *AITER, *LAYER, *OLDER, "--rules", mine, "--format", "json")
    assert answer.json["backend"] == "TRITON"


def test_conformance_takes_folders_and_files_of_both_kinds(cli: Command) -> None:
    both = [SAMPLES / "0.32", SAMPLES / "dev/tpu.jsonl.gz", "--oracle", "fp8"]
    answer = cli("conformance", *both, *OLDER, "--format", "json")
    assert answer.code == 0
    alone = cli("conformance", *both[:1], *both[2:], *OLDER, "--format", "json")
    counts = [a.json["oracles"]["fp8"]["decision"]["total"] for a in (answer, alone)]
    assert counts[0] > counts[1] > 0


def test_releases_are_listed(cli: Command) -> None:
    latest, older = cli("list", "releases", "--format", "json").json[:2]
    assert (latest["release"], latest["latest"]) == ("0.33", True)
    assert (older["release"], older["vllm"], older["latest"]) == ("0.32", "0.32.0", False)


def test_releases_are_compared(cli: Command) -> None:
    answer = cli("diff", "0.32", "0.33", "--platform", "rocm", "--oracle", "unquantized")
    assert answer.code == 1
    assert "AITER / AiterExperts -> AITER / AiterUnquantizedExperts" in answer.out
    assert "--release 0.33" in answer.out
    assert cli("diff", "0.33", "packaged", "--platform", "rocm").code == 0


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """An overlay that can lie on 0.32 alone."""
    path = tmp_path / "mine" / "rocm.yaml"
    path.parent.mkdir()
    path.write_text("platform: rocm\nkernels: {AiterExperts: {requires: {hidden_dim: '>=4096'}}}\n")
    return path.parent


def test_an_overlay_is_checked_over_a_release(cli: Command, mine: Path) -> None:
    assert "no backend uses 'AiterExperts'" in cli("check", mine).out
    assert "no findings" in cli("check", mine, *OLDER).out
    assert cli("verify", mine, *OLDER).code == 0


def test_an_overlay_is_compared_over_a_release(cli: Command, mine: Path) -> None:
    about = ["--platform", "rocm", "--oracle", "unquantized", *OLDER]
    answer = cli("diff", "packaged", mine, *about)
    assert answer.code == 1
    assert "AITER / AiterExperts -> TRITON / TritonExperts" in answer.out
    assert f"--release 0.32 --rules {mine}" in answer.out


def test_a_release_that_is_named_lies_over_no_other(cli: Command) -> None:
    about = ["--platform", "rocm", "--oracle", "unquantized", *OLDER]
    assert cli("diff", "0.32", "packaged", *about).code == 0
    assert cli("diff", "0.33", "packaged", *about).code == 1


def test_a_release_is_checked_over_what_it_lies_on(cli: Command) -> None:
    answer = cli("check", ROOT / "rules" / "releases" / "0.32")
    assert answer.code == 0, answer.out


def test_what_is_wrong_in_a_release_is_found(cli: Command, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    shutil.copytree(ROOT / "rules", rules)
    older = rules / "releases" / "0.32"
    (older / "xpu.yaml").write_text("platform: xpu\nwithdrawn: {kernels: {NoExperts: x}}\n")
    (older / "models" / "registry.yaml").write_text("withdrawn: {draft_models: {NoMTP: x}}\n")
    (older / "models" / "mistral.yaml").write_text("latent_attention: [1]\n")
    answer = cli("check", rules)
    assert answer.code == 1
    for message in (
        "releases/0.32/xpu.yaml:2:",
        "kernels have no 'NoExperts' that could be withdrawn",
        "draft_models has no 'NoMTP' that could be withdrawn",
        "releases/0.32/models/mistral.yaml:1:",
    ):
        assert message in answer.out


def test_a_list_of_releases_that_is_wrong_is_found(cli: Command, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    shutil.copytree(ROOT / "rules", rules)
    (rules / "releases.yaml").write_text("releases: [0.33.0, '0.32']\n")
    answer = cli("check", rules)
    assert answer.code == 1
    assert "releases.yaml:1:" in answer.out


def test_examples_of_the_tables_are_asked_of_the_release(cli: Command) -> None:
    """Once, also where they are the release's own."""
    own = cli("test", ROOT / "rules/releases/0.32", *OLDER)
    assert (own.code, own.err) == (0, "")
    answer = cli("test", ROOT / "rules/cuda", *OLDER)
    assert (answer.code, answer.err) == (0, "")


def test_a_release_is_called_the_same_wherever_it_is_named(cli: Command) -> None:
    answer = cli("diff", "v0.32", "0.32.0", "--platform", "tpu")
    assert (answer.code, answer.err) == (0, "")
