"""What holds for every command: help, exit codes, streams, and what is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import moe_rules
from moe_rules.cli import BROKEN_PIPE, COMMANDS, INTERRUPTED, main
from moe_rules.cli.commands import facts as facts_command
from tests.cli.conftest import MODELS, Command

MODEL = str(MODELS / "Qwen3-30B-A3B.json")


def process(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moe_rules", *words]
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_version(cli: Command) -> None:
    answer = cli("--version")
    assert (answer.code, answer.out) == (0, f"moe-rules {moe_rules.__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(cli: Command, name: str) -> None:
    word = name.replace("_", "-")
    answer = cli(word, "--help")
    assert answer.code == 0
    example = answer.out.split("example:")[1].strip()
    assert example.startswith(f"moe-rules {word}")
    from moe_rules.cli import build_parser

    assert build_parser().parse_args(example.split()[1:]).command == word


@pytest.mark.parametrize(
    "words",
    [[], ["select", "--tp", "0"], ["select", "--tp", "two"], ["list", "nothing"]],
)
def test_wrong_command_lines_end_with_2(cli: Command, words: list[str]) -> None:
    answer = cli(*words)
    assert answer.code == 2
    assert "usage: moe-rules" in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["select", "--platform", "h100"],
            "select has no option --platform; h100 is a machine: --machine h100",
        ),
        (["explain", "--platform=Hopper"], "Hopper is a machine: --machine Hopper"),
        (
            ["matrix", "--model", "x", "--platform", "rocm"],
            "and --machine takes a machine (machines of it: ",
        ),
        (["upgrade", "--device", "rocm"], "rocm is a kind of device: --platform rocm"),
        (
            ["diff", "packaged", "--platform", "h100"],
            "that is a machine; --machine h100 asks for it",
        ),
        (["list", "--machine", "cuda"], "which is a kind of device; machines of it: v100"),
        (["select", "h100"], "select takes no 'h100'; h100 is a machine: --machine h100"),
        (["select", "--modell", "x"], "select has no option --modell; did you mean --model?"),
        (
            ["check", "--platform="],
            "check has no option --platform (others have it: list, diff, upgrade",
        ),
        (["select", "--xyz"], "select has no option --xyz; moe-rules select --help lists them"),
        (["diff", "a", "b", "c"], "diff takes no 'c'; moe-rules diff --help has what it takes"),
    ],
)
def test_words_that_a_command_does_not_take_lead_to_those_it_does(
    cli: Command, words: list[str], said: str
) -> None:
    answer = cli(*words)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("selct", "there is no command 'selct'; did you mean 'select'?"),
        ("whynot", "there is no command 'whynot'; did you mean 'why-not'?"),
        ("xyz", "there is no command 'xyz' (one of select, explain, why-not, "),
    ],
)
def test_a_command_that_there_is_not_leads_to_the_nearest(
    cli: Command, word: str, said: str
) -> None:
    answer = cli(word, "--model", "x")
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


def test_interrupt_is_quiet(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(facts_command, "run", interrupted)
    answer = cli("facts")
    assert (answer.code, answer.out, answer.err) == (INTERRUPTED, "", "")


def test_a_bug_is_not_dressed_up_as_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(args: object) -> int:
        raise KeyError("oops")

    monkeypatch.setattr(facts_command, "run", buggy)
    with pytest.raises(KeyError):
        main(["facts"])


OUTPUTS = {">&-": "standard output is closed", "> /dev/full": "No space left on device"}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("words", ["facts", "list machines", "check corrected"])
def test_what_cannot_be_written_is_no_answer(words: str, output: str) -> None:
    if "/dev/full" in output and not os.path.exists("/dev/full"):
        pytest.skip("no device is always full here")
    program = f"{sys.executable} -m moe_rules {words} {output}"
    result = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("moe-rules: error: ")
    assert OUTPUTS[output] in line


def test_nobody_has_to_listen_to_what_goes_wrong(tmp_path: Path) -> None:
    """Without a standard error what it would have is nowhere, and not in the output."""

    def run(words: str) -> subprocess.CompletedProcess[str]:
        program = f"{sys.executable} -m moe_rules {words} --model {MODEL} 2>&-"
        return subprocess.run(["bash", "-c", program], capture_output=True, text=True)

    assert run(f"report --machine h100 --out {tmp_path / 'report.html'}").returncode == 0
    refused = run("select --machine h10")
    assert (refused.returncode, refused.stdout) == (2, "")


@pytest.mark.parametrize("words", ["facts", f"explain --model {MODEL} --machine h100"])
def test_broken_pipe_is_quiet(words: str) -> None:
    program = f"set -o pipefail; {sys.executable} -m moe_rules {words} | true"
    result = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (BROKEN_PIPE, "")


def test_no_colour_codes_without_a_terminal() -> None:
    result = process("explain", "--model", MODEL, "--machine", "h100")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_on_a_terminal_unless_no_color(no_color: bool) -> None:
    pty = pytest.importorskip("pty")
    environ = {**os.environ, "TERM": "xterm-256color", **({"NO_COLOR": "1"} if no_color else {})}
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "moe_rules", "explain", "--model", MODEL, "--machine", "t4"]
    child = subprocess.Popen(command, stdout=follower, stderr=follower, env=environ)
    os.close(follower)
    shown = b""
    try:
        while data := os.read(leader, 65536):
            shown += data
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert child.wait() == 0
    assert b"TritonExperts" in shown
    assert (b"\x1b[32m" in shown or b"\x1b[1;32m" in shown) is not no_color


def test_output_survives_a_terminal_without_unicode() -> None:
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = process("explain", "--model", MODEL, "--machine", "h100", env=environ)
    assert result.returncode == 0
    assert result.stderr == ""


HEAVY = {"torch", "triton", "numpy", "vllm"}


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], {"pydantic", "rich", "yaml", "jsonschema"}),
        (["--version"], {"pydantic", "rich", "yaml", "jsonschema"}),
        (["select", "--help"], {"pydantic", "rich", "yaml", "jsonschema"}),
        (["select", "--model", MODEL, "--machine", "h100"], {"rich", "jsonschema"}),
        (["explain", "--model", MODEL, "--machine", "h100"], {"jsonschema"}),
        (["why-not", "TRITON", "--model", MODEL, "--machine", "h100"], {"rich", "jsonschema"}),
        (["detect"], {"rich", "jsonschema"}),
        (["facts"], {"rich", "jsonschema"}),
        (["list", "kernels"], {"rich", "jsonschema"}),
        (["schema", "platform"], {"rich"}),
        (["check"], {"rich"}),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_commands_import_only_what_they_need(words: list[str], absent: set[str]) -> None:
    program = (
        "import sys; from moe_rules.cli import main; main(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(result.stderr.split())
    assert "moe_rules" in loaded
    assert loaded & (HEAVY | absent) == set()


def test_the_rules_engine_is_a_module_that_runs() -> None:
    assert isinstance(moe_rules, ModuleType)
    assert process("--version").stdout == f"moe-rules {moe_rules.__version__}\n"


def test_works_from_any_folder(tmp_path: Path) -> None:
    result = process("select", "--model", MODEL, "--machine", "b200", cwd=tmp_path)
    assert result.returncode == 0
    assert "Qwen3-30B-A3B" in result.stdout
