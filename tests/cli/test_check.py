"""check: every kind of wrong file gives a finding with its place, and never a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_rules.cli.checking import check
from moe_rules.files.packaged import packaged_rules
from moe_rules.language.kinds import kind_of
from tests.cli.conftest import Command

Write = Callable[[str, str | bytes], Path]

OVERLAY = """\
platform: cuda
oracles:
  unquantized:
    adjust:
      - {move: TRITON, before: FLASHINFER_TRTLLM, because: we measured it}
"""


def test_the_packaged_rules_have_no_errors(cli: Command) -> None:
    answer = cli("check", "--format", "json")
    assert answer.code == 0, answer.out
    assert answer.json["errors"] == 0
    checked = {Path(file).name for file in answer.json["files"]}
    assert {"vocabulary.yaml", "machines.yaml", "architectures.yaml", "tpu.yaml"} <= checked


def test_an_overlay_is_checked_with_the_packaged_files(cli: Command, write: Write) -> None:
    path = write("mine.yaml", OVERLAY)
    answer = cli("check", path)
    assert answer.code == 0, answer.out
    # What was looked at is what was asked about; the packaged files are read to understand it.
    assert answer.out == "no findings in 1 file\n"


def test_an_overlay_may_have_words_of_its_own(write: Write) -> None:
    derived = "derived: {mine: {type: int, meaning: mine, cases: [{value_of: ep_size}]}}\n"
    adjust = "{when: {activation: $ours, mine: 2}, first: [TRITON]}"
    file = write("mine/cuda.yaml", f"platform: cuda\noracles: {{fp8: {{adjust: [{adjust}]}}}}\n")
    policy = "{name: ours, when: {activation: $ours}, never: {error: invalid_request}}"
    policies = write("mine/ours.policy.yaml", f"policies: [{policy}]\n")
    odd = "features: {odd: {meaning: odd, without: {activation: [$ours, gelu], mine: 1}}}\n"
    write("mine/words.yaml", f"sets: {{ours: [silu]}}\n{derived}{odd}")
    assert check([file.parent]).problems == ()
    file.unlink()
    write("mine/words.yaml", derived)
    (problem,) = check([file.parent]).problems
    assert problem.location.file == str(policies)
    assert "there is no set '$ours'" in problem.message


WRONG = {
    "unknown key": (
        "platform: cuda\noracle: {}\n",
        "mine.yaml:2:1", "unknown key 'oracle'; did you mean 'oracles'?",
    ),
    "duplicate key": (
        "platform: cuda\nplatform: cuda\n",
        "mine.yaml:2:1", "duplicate key 'platform'",
    ),
    "unknown platform": ("platform: cudda\n", "mine.yaml:1:11", "did you mean 'cuda'?"),
    "unknown fact": (
        "platform: cuda\nkernels:\n  TritonExperts: {requires: {num_expert: 3}}\n",
        "mine.yaml:3:30", "did you mean 'num_experts'?",
    ),
    "unknown value": (
        "platform: cuda\nkernels:\n  TritonExperts: {requires: {activation: sliu}}\n",
        "mine.yaml:3:42", "did you mean 'silu'?",
    ),
    "bad range": (
        "platform: cuda\nkernels:\n  TritonExperts: {requires: {num_experts: '>= many'}}\n",
        "mine.yaml:3:43", "'many' is not a number",
    ),
    "backend without an entry": (
        "platform: cuda\noracles:\n  unquantized: {priority: [TRITTON]}\n",
        "mine.yaml:3:28", "declares no backend 'TRITTON'; did you mean 'TRITON'?",
    ),
    "kernel nobody declares": (
        "platform: cuda\noracles:\n  fp8: {backends: {TRITON: {kernels: [TritonExpert]}}}\n",
        "mine.yaml:3:39", "no kernel 'TritonExpert' is declared; did you mean 'TritonExperts'?",
    ),
    "adjustment of an absent backend": (
        "platform: cuda\noracles:\n  unquantized: {adjust: [{first: [TRITTON]}]}\n",
        "mine.yaml:3:35", "declares no backend 'TRITTON'",
    ),
    "contradictory adjustments": (
        "platform: cuda\noracles:\n  unquantized:\n    adjust:\n"
        "      - {first: [TRITON]}\n      - {last: [TRITON]}\n",
        "mine.yaml:6:9", "'TRITON' goes last here and first at line 5",
    ),
    "cyclic adjustments": (
        "platform: cuda\noracles:\n  unquantized:\n    adjust:\n"
        "      - {move: TRITON, before: FLASHINFER_TRTLLM}\n"
        "      - {move: FLASHINFER_TRTLLM, before: TRITON}\n",
        "mine.yaml:6:9", "contradicts the adjustments before it",
    ),
    "two actions": (
        "platform: cuda\noracles:\n  unquantized: {adjust: [{first: [TRITON], last: [TRITON]}]}\n",
        "mine.yaml:3:26", "exactly one of",
    ),
    "empty": ("", "mine.yaml", "is empty"),
    "comments only": ("# nothing\n", "mine.yaml", "is empty"),
    "not a mapping": ("- platform\n", "mine.yaml:1:1", "a mapping"),
    "not YAML": ("platform: [cuda\n", "mine.yaml:2:1", "not YAML"),
    "not UTF-8": (b"platform: cuda\n# \xff\n", "mine.yaml:2", "not UTF-8"),
    "several documents": ("platform: cuda\n---\nplatform: cuda\n", "mine.yaml:2:1", "not YAML"),
    "YAML bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]\n"
            for last, this in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "mine.yaml", "expands to more than",
    ),
    "nested too deeply": ("platform: " + "[" * 5000, "mine.yaml", "nested deeper"),
    "too large": ("# " + "x" * 5_000_000, "mine.yaml", "bytes; at most"),
    "binary": (b"\x00\x01\x02", "mine.yaml", "not YAML"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "place", "message"), WRONG.values(), ids=WRONG)
def test_wrong_files(
    cli: Command, write: Write, content: str | bytes, place: str, message: str
) -> None:
    path = write("mine.yaml", content)
    answer = cli("check", path)
    assert answer.code == 1
    assert answer.err == ""
    line = next(line for line in answer.out.splitlines() if message in line)
    assert f"{place}: error: " in line or f"{place}:1: error: " in line
    # The same file as an overlay of a command: the same finding, as an error of that command.
    as_overlay = cli("list", "oracles", "--platform", "cuda", "--rules", path)
    assert as_overlay.code == 2
    assert message in as_overlay.err


def test_all_errors_of_a_file_at_once(cli: Command, write: Write) -> None:
    path = write(
        "mine.yaml",
        "platform: cuda\noracles:\n  unquantized:\n    priority: [TRITTON, MARLINN]\n"
        "kernels:\n  TritonExperts: {requires: {num_expert: 3, activation: sliu}}\n",
    )
    out = cli("check", path).out
    assert [word in out for word in ("TRITTON", "MARLINN", "num_expert", "sliu")] == [True] * 4


def test_no_permission(cli: Command, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as a user whom permissions do not bind.
    path = write("mine.yaml", OVERLAY)
    read = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self.name == path.name:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    answer = cli("check", path)
    assert answer.code == 1
    assert f"no permission to read {path}" in answer.out


def test_paths_that_cannot_be_checked(cli: Command, tmp_path: Path) -> None:
    missing = cli("check", tmp_path / "nowhere.yaml")
    assert (missing.code, missing.out) == (2, "")
    assert "there is no such file or folder" in missing.err
    assert "did you mean 'measured'?" in cli("check", "measurd").err
    empty = cli("check", tmp_path)
    assert empty.code == 2
    assert "the folder has no YAML file" in empty.err


def test_a_folder_of_overlays_is_one_overlay(cli: Command, write: Write, tmp_path: Path) -> None:
    write("a/cuda.yaml", OVERLAY.replace("TRITON,", "MINE,"))
    write(
        "a/more/backend.yaml",
        "platform: cuda\noracles:\n  unquantized:\n"
        "    backends: {MINE: {kernels: [TritonExperts]}}\n",
    )
    write("a/.hidden/x.yaml", "not: ours\n")
    answer = cli("check", tmp_path / "a")
    assert answer.code == 0, answer.out
    assert cli("check", tmp_path / "a" / "cuda.yaml").code == 1


@pytest.fixture
def rule_set(tmp_path: Path) -> Path:
    """A copy of the packaged rules."""
    return Path(shutil.copytree(packaged_rules(), tmp_path / "rules"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_rule_set_of_ones_own(cli: Command, rule_set: Path) -> None:
    assert cli("check", rule_set).code == 0
    file = rule_set / "cuda" / "unquantized.yaml"
    edit(file, "      - FLASHINFER_CUTLASS\n", "      - FLASHINFER_CUTLAS\n")
    answer = cli("check", rule_set)
    assert answer.code == 1
    assert "did you mean 'FLASHINFER_CUTLASS'?" in answer.out
    assert cli("check", file).code == 1
    assert cli("check", rule_set / "cuda" / "fp8.yaml").code == 1
    assert cli("check", rule_set / "rocm").code == 0


def test_what_is_shared_is_checked_on_every_platform_that_it_names(
    cli: Command, rule_set: Path
) -> None:
    edit(rule_set / "cpu" / "fp8.yaml", "    priority:", "    switches: []\n    priority:")
    answer = cli("check", rule_set / "shared" / "fp8.yaml")
    assert answer.code == 1
    assert "shared/fp8.yaml:7:5: error: 'switches' is declared already at " in answer.out
    assert "cpu/fp8.yaml:9:5" in answer.out
    assert "1 error" in answer.out
    (rule_set / "shared" / "words.yaml").write_text("sets: {}\nfeatures: {}\nderived: {}\n")
    answer = cli("check", rule_set)
    assert "words.yaml:1:1: error: this is no file of rules, and lies among them" in answer.out


@pytest.mark.parametrize("place", ["nvidia.yaml", "cuda/more/fp8.yaml", "shared/more/fp8.yaml"])
def test_a_file_of_rules_that_no_platform_reads(cli: Command, rule_set: Path, place: str) -> None:
    file = rule_set / place
    file.parent.mkdir(exist_ok=True)
    file.write_text("platform: cuda\n")
    answer = cli("check", rule_set)
    assert answer.code == 1
    assert f"{place}:1:1: error: no platform reads this file" in answer.out
    assert "1 error" in answer.out


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("vocabulary.yaml", "features:", "featurs:", "unknown key 'featurs'"),
        ("vocabulary.yaml", "is_lora_enabled: false", "is_lora: false", "no fact 'is_lora'"),
        ("machines.yaml", "compute_capability: \"7.0\"", "compute_capability: seven", "version"),
        ("machines.yaml", "product: NVIDIA T4", "prodct: NVIDIA T4", "unknown key 'prodct'"),
        ("tpu.yaml", "platform: tpu", "platform: xpu", "by its place"),
        ("models/architectures.yaml", "architectures:", "architecture:", "architecture"),
        ("models/quantization.yaml", "methods:", "method:", "method"),
    ],
)  # fmt: skip
def test_every_kind_of_file_is_checked(
    cli: Command, rule_set: Path, name: str, old: str, new: str, message: str
) -> None:
    edit(rule_set / name, old, new)
    answer = cli("check", rule_set)
    assert answer.code == 1
    finding = next(line for line in answer.out.splitlines() if message in line)
    assert Path(name).name in finding.partition(": error:")[0]


def test_a_recorded_machine(cli: Command, write: Write) -> None:
    good = write("good.yaml", 'name: x\nplatform: {device: cuda, compute_capability: "9.0"}\n')
    assert cli("check", good).code == 0
    bad = write(
        "bad.yaml", "name: x\nplatform: {device: cuda, gfx: gfx942}\nsoftware: {aitr: true}\n"
    )
    answer = cli("check", bad)
    assert answer.code == 1
    assert "bad.yaml:2" in answer.out
    assert "did you mean 'aiter'?" in answer.out


def test_warnings_are_errors_only_on_request(cli: Command, write: Write) -> None:
    path = write("mine.yaml", "platform: cpu\nkernels: {Nobody: {}}\n")
    assert cli("check", path).code == 0
    assert "warning: no backend uses 'Nobody'" in cli("check", path).out
    assert cli("check", path, "--warnings-as-errors").code == 1


@pytest.mark.parametrize("kind", ["text", "json", "github", "sarif", "junit"])
def test_every_format_reports_the_finding(cli: Command, write: Write, kind: str) -> None:
    path = write("mine.yaml", "platform: cuda\noracle: {}\n")
    answer = cli("check", path, "--format", kind)
    assert answer.code == 1
    assert "unknown-key" in answer.out
    assert "mine.yaml" in answer.out


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"platform": "cuda"}, "platform"),
        ({"platform": {"device": "cuda"}}, "machine"),
        ({"machines": {}, "software": {}}, "machines"),
        ({"sets": {}}, "vocabulary"),
        ({"methods": {}}, "quantization"),
        (["x"], "platform"),
    ],
)
def test_kind_of(data: object, kind: str) -> None:
    assert kind_of(data) == kind


_WORDS = st.sampled_from(
    ["platform", "cuda", "oracles", "fp8", "kernels", "priority", "adjust", "requires", "when",
     "TRITON", "any", "not", "num_experts", ">=3", "machines", "methods", "sets", "true", "9.0"]
)  # fmt: skip
_DOCUMENTS = st.recursive(
    _WORDS | st.none() | st.booleans() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=80) | _DOCUMENTS.map(lambda data: repr(data).encode()))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_content_crashes_the_check(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    report = check([file])
    assert all(problem.message and problem.location.file for problem in report.problems)


def test_a_request_that_no_oracle_takes(cli: Command, tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        "platform: cuda\n"
        "requested:\n"
        "  fp8: deep_gem\n"
        "  draft: tritno\n"
        "  target.nvfp4: auto\n"
        "  draft.unquantized: triton\n"
    )
    answer = cli("check", overlay)
    assert answer.code == 1
    assert "mine.yaml:3:3: error: fp8 takes no request 'deep_gem'; did you mean" in answer.out
    assert "mine.yaml:4:3: error: draft takes no request 'tritno'; did you mean" in answer.out
    assert "2 errors" in answer.out
