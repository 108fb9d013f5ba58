"""diff: what is compared, which deployments are asked about, and how the answer is written."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from moe_rules.cli.difference_formats import percent
from moe_rules.cli.render import at_places
from moe_rules.files.packaged import packaged_rules
from tests.cli.conftest import MODELS, Command

MINE = """
platform: cuda
oracles:
  unquantized:
    adjust:
      - {when: {compute_capability: "10.0"}, first: [TRITON], because: faster for our shapes}
"""
MODEL = MODELS / "Qwen3-30B-A3B.json"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "cuda.yaml").write_text(MINE)
    return folder


def git(at: Path, *words: str) -> None:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", *who, *words], cwd=at, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a rule set of two revisions, the command running in it."""
    top = tmp_path / "repository"
    rules = top / "rules"
    rules.mkdir(parents=True)
    words = (packaged_rules() / "vocabulary.yaml").read_text()
    (rules / "vocabulary.yaml").write_text(words)
    oracle = {
        "priority": ["A", "B"],
        "backends": {"A": {"kernels": ["AExperts"]}, "B": {"kernels": ["BExperts"]}},
    }
    kernels = {"AExperts": {"requires": {"num_experts": "<=8"}}, "BExperts": {}}
    file = {"platform": "cuda", "oracles": {"fp8": oracle}, "kernels": kernels}

    git(top, "init")
    for bound in ("<=8", "<=16"):
        kernels["AExperts"]["requires"]["num_experts"] = bound
        (rules / "cuda.yaml").write_text(json.dumps(file))
        git(top, "add", ".")
        git(top, "commit", "-m", f"Take {bound}")
    monkeypatch.chdir(top)
    return top


def test_alike_is_said_to_be_so_everywhere(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "cuda.yaml").write_text("platform: cuda\n")
    answer = cli("diff", "packaged", tmp_path)
    assert answer.code == 0
    assert "decide alike everywhere: 70 oracles on cuda" in answer.out
    assert cli("diff", "packaged", tmp_path, "--format", "json").json == {
        "equal": True,
        "differences": [],
    }


def test_every_difference_has_a_deployment_that_explain_takes(cli: Command, mine: Path) -> None:
    answer = cli("diff", "packaged", mine, "--format", "json")
    assert answer.code == 1
    found = answer.json["differences"]
    assert not answer.json["equal"]
    assert [one["share"] for one in found] == sorted((o["share"] for o in found), reverse=True)
    text = cli("diff", mine).out.splitlines()
    commands = [line.partition("see: ")[2] for line in text if "see: " in line]
    assert len(commands) == len(found) == 3
    for one, command in zip(found, commands, strict=True):
        assert (one["oracle"], one["platform"]) == ("unquantized", "cuda")
        assert one["after"] == {"backend": "TRITON", "kernel": "TritonExperts"}
        assert one["before"]["backend"].startswith("FLASHINFER")
        assert one["witness"]["compute_capability"] == "10.0"
        words = shlex.split(command)[1:]
        after = cli(*words, "--format", "json").json
        at = words.index("--rules")
        before = cli(*words[:at], *words[at + 2 :], "--format", "json").json
        assert (after["backend"], after["kernel"]) == tuple(one["after"].values())
        assert (before["backend"], before["kernel"]) == tuple(one["before"].values())


def test_narrowed_to_a_machine_a_model_or_facts(cli: Command, mine: Path) -> None:
    assert cli("diff", mine, "--machine", "h100").code == 0
    assert cli("diff", mine, "--machine", "b200").code == 1
    assert cli("diff", mine, "--platform", "rocm").code == 0
    assert cli("diff", mine, "--oracle", "fp8").code == 0
    assert cli("diff", mine, "--set", "compute_capability=9.0").code == 0
    of_model = cli("diff", mine, "--model", MODEL, "--machine", "h100", "--machine", "b200")
    assert "for layers 0-47 on b200" in of_model.out
    assert "h100" not in of_model.out.partition("see:")[0]
    command = of_model.out.partition("see:")[2]  # about the model's layers, asked for or not
    assert "--set experts_per_token=8 --set hidden_dim=2048 --set intermediate_size=768" in command
    everywhere = cli("diff", mine, "--model", MODEL, "--platform", "cuda", "--format", "json")
    subjects = {name for one in everywhere.json["differences"] for name in one["subjects"]}
    assert "layers 0-47 on b200" in subjects
    assert not any("h100" in name for name in subjects)


def test_revisions(cli: Command, repository: Path) -> None:
    for words in (["HEAD~1.."], ["HEAD~1"], ["HEAD~1", "HEAD"], ["HEAD~1..HEAD"]):
        answer = cli("diff", *words)
        assert answer.code == 1
        assert "B / BExperts -> A / AExperts" in answer.out
        assert 'num_experts: ">8' in answer.out
    assert cli("diff", "HEAD").code == 0
    assert cli("diff", "HEAD~1:rules/cuda.yaml", "HEAD:rules").code == 1
    (repository / "mine.yaml").write_text("platform: cuda\n")
    assert cli("diff", "mine.yaml").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["", "packaged"], "an empty word names no rules"),
        (["HEAD~7"], "there is no such file, folder, git revision or release (0.33, 0.32)"),
        (["HEAD~1:tables"], "HEAD~1 has no tables; write REVISION:PATH"),
        (["HEAD:/"], "/ lies outside of the repository"),
        (["HEAD:../..", "packaged"], "../.. lies outside of the repository"),
        (["HEAD:../.."], "../.. lies outside of the repository"),
        (["nothing"], "there is no such file, folder, git revision or release (0.33, 0.32)"),
        (["correctd"], "did you mean 'corrected'"),
        (["packaged", "--platform", "cudda"], "did you mean 'cuda'"),
        (["packaged", "--platform", "h100"], "--machine h100 asks for it"),
        (["packaged", "--oracle", "fp9"], "did you mean 'fp8'"),
        (["packaged", "--set", "num_expert=1"], "did you mean 'num_experts'"),
        (["packaged", "--software", "bare"], "--software goes with --machine or --model"),
        (["packaged", "--show", "-1"], "'-1' is not a whole number from 0 up"),
    ],
)
def test_what_is_wrong_is_said(
    cli: Command, repository: Path, words: list[str], message: str
) -> None:
    answer = cli("diff", *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--machine", "h100", "--platform", "rocm"], "what --platform and --machine say"),
        (["--machine", "b200", "--set", "gfx=gfx942"], "what --machine and --set say"),
        (["--model", MODEL, "--oracle", "fp8"], "what --oracle and --model say"),
        (["--set", "num_experts=1", "--set", "experts_per_token=2"], "routed to an expert once"),
    ],
)
def test_deployments_that_cannot_be_are_not_compared(
    cli: Command, mine: Path, words: list[str], message: str
) -> None:
    answer = cli("diff", mine, *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


def test_facts_of_one_kind_of_device_narrow_to_it(cli: Command, mine: Path) -> None:
    found = cli("diff", mine, "--set", "compute_capability=9.0").out
    assert "10 oracles on cuda" in found
    assert "rocm" not in found
    assert cli("diff", mine, "--set", "device=rocm").out.endswith("on rocm\n")


def test_a_file_that_is_wrong(cli: Command, mine: Path) -> None:
    (mine / "cuda.yaml").write_text(MINE.replace("TRITON", "TRITTON"))
    answer = cli("diff", mine)
    assert answer.code == 2
    assert "did you mean 'TRITON'" in answer.err


def test_an_overlay_that_a_revision_lacks_is_compared_with_what_it_lies_on(
    cli: Command, repository: Path
) -> None:
    (repository / "moe-rules").mkdir()
    (repository / "moe-rules/cuda.yaml").write_text(MINE)
    words = ["diff", "HEAD:moe-rules", "moe-rules", "--oracle", "unquantized", "--platform", "cuda"]
    answer = cli(*words)
    assert answer.code == 1, answer.err
    assert "TRITON / TritonExperts" in answer.out
    shown = cli(*words, "--format", "markdown", "--exit-zero")
    assert shown.code == 0
    assert "of moe-rules against HEAD:moe-rules (not there yet)" in shown.out


def test_no_command_is_given_that_could_not_read_a_revision(cli: Command, repository: Path) -> None:
    (repository / "mine").mkdir()
    (repository / "mine/cuda.yaml").write_text(MINE)
    git(repository, "add", "mine")
    git(repository, "commit", "-m", "ours")
    words = ["--oracle", "unquantized", "--platform", "cuda"]
    assert "see: moe-rules explain" in cli("diff", "packaged", "mine", *words).out
    committed = cli("diff", "packaged", "HEAD:mine", *words)
    assert committed.code == 1
    assert "see:" not in committed.out


def test_before_the_first_commit_an_overlay_is_new(
    cli: Command, tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init"], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    answer = cli("diff", "HEAD:mine", "mine", "--oracle", "unquantized", "--platform", "cuda")
    assert answer.code == 1, answer.err
    assert "TRITON / TritonExperts" in answer.out
    answer = cli("diff", "HEAD:tables", "mine")
    assert (answer.code, answer.out) == (2, "")
    assert "HEAD has no tables" in answer.err


def test_formats(cli: Command, mine: Path) -> None:
    markdown = cli("diff", mine, "--format", "markdown", "--show", "2")
    lines = markdown.out.splitlines()
    items = [line for line in lines if line.startswith("- **unquantized on cuda**: ")]
    assert len(items) == 2
    commands = [line for line in lines if line.startswith("    - see: `moe-rules explain ")]
    assert len(commands) == 2
    assert "1 of them not shown" in markdown.out
    github = cli("diff", mine, "--format", "github").out.splitlines()
    assert [line.startswith("::notice title=unquantized on cuda") for line in github] == [
        True,
        True,
        True,
        False,
    ]
    assert all("%25 of its deployments" in line for line in github[:3])


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1.0, "100 %"),
        (0.5, "50 %"),
        (0.0456, "4.6 %"),
        (0.00123, "0.12 %"),
        (2.34e-5, "0.0023 %"),
        (4.4e-7, "less than 0.001 %"),
    ],
)
def test_shares_are_said_in_figures_that_one_reads(share: float, said: str) -> None:
    assert percent(share) == said


def test_what_is_at_the_same_places_is_told_together() -> None:
    pairs = [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y"), ("c", "z")]
    assert at_places(pairs) == "x and y on a and b; z on c"
    assert at_places([("a", ""), ("b", ""), ("c", ""), ("d", "")], 2) == "a, b and 2 more"
