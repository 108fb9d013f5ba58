"""What a user sees who starts ``moe-rules`` with torchrun."""

import contextlib
import io
import json
import os

import pytest
import torch.distributed as dist
from moe_kernels.ranks.torchrun import number_of_ranks, this_rank
from rank_pool import CONTEXT

from moe_rules.cli import main
from tests.cli.conftest import LAYER, MODELS

CPU = ["run", "--machine", "x86", "--device", "cpu", "--oracle", "unquantized", *LAYER]


def _command(pipe, words, environment):
    os.environ.update(environment)
    from moe_rules.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    pipe.send((code, out.getvalue(), err.getvalue()))


@pytest.fixture
def torchrun():
    """Runs the command on so many ranks, as torchrun does: exit code, output and errors of each."""

    def run(size, *words, missing=()):
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "OMP_NUM_THREADS": "1",
        }
        pipes, processes = [], []
        for rank in set(range(size)) - set(missing):
            here, there = CONTEXT.Pipe()
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(CONTEXT.Process(target=_command, args=(there, [*words], own)))
            processes[-1].start()
            pipes.append(here)
        try:
            return [pipe.recv() for pipe in pipes]
        finally:
            for process in processes:
                process.kill()
                process.join()

    return run


@pytest.mark.parametrize(
    "backend", ["allgather_reducescatter", "all_to_all_single", "symmetric_memory"]
)
def test_a_layer_runs_over_ranks(torchrun, backend):
    words = [*CPU, "--ep", "--all2all", backend, "--num-tokens", "7", "--format", "json"]
    (code, out, err), (other_code, other_out, _) = torchrun(2, *words)
    assert (code, other_code, other_out) == (0, 0, ""), err
    run = json.loads(out)["run"]
    layer = run["layer"]
    assert (run["kernel"], layer["ranks"]) == ("CPUUnquantizedExperts", 2)
    assert (layer["exchange"], layer["num_tokens"]) == (backend, 7)
    assert layer["relative_error"] <= 2 * layer["error_bound"]
    assert layer["speedup"] == layer["one_rank_ms"] / layer["ms"]
    assert layer["experts_ms"] > 0
    # 256 values in bf16, and two ids and weights of 4 bytes, in units of 128: no rank sends more
    # than its 4 tokens, or the other's, to the one other rank.
    assert 0 < layer["dispatch"]["bytes"] <= 4 * 640
    assert 0 < layer["combine"]["bytes"] <= 4 * 512
    for phase in ("dispatch", "combine"):
        assert layer[phase]["exchange_ms"] > 0
        assert layer[phase]["share"] == layer[phase]["bare_ms"] / layer[phase]["exchange_ms"]


def test_text_says_error_phases_and_bandwidth(torchrun):
    words = ["--model", str(MODELS / "toy-moe.json"), "--machine", "x86", "--ep"]
    (code, out, err), _ = torchrun(2, "run", *words)
    assert code == 0, err
    assert "toy-moe, layers 0-1, on x86, dp 2, ep:" in out
    assert "over 2 ranks on cpu, allgather_reducescatter: 16 tokens in all" in out
    assert "error against one rank: relative " in out
    assert "of a bare all_to_all_single" in out
    assert "  dispatch: " in out
    assert "  combine: " in out


WRONG = {
    "no ep": ([], "torchrun started 2 ranks: say --ep to spread the experts over them"),
    "other sizes": (["--ep", "--dp", "4"], "--dp 4 are 4 ranks, but torchrun started 2"),
    "no exchange": (["--ep", "--tp", "2"], "all ranks have all tokens, and none is sent"),
    "another's exchange": (
        ["--ep", "--all2all", "deepep_high_throughput"],
        "all2all_backend 'deepep_high_throughput' is not here",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_named(torchrun, case):
    words, said = WRONG[case]
    for code, out, err in torchrun(2, *CPU, *words):
        assert code in (1, 2)
        assert out == ""
        assert said in err


def test_a_rank_that_does_not_start_is_named(torchrun):
    ((code, out, err),) = torchrun(2, *CPU, "--ep", "--rank-timeout", "2", missing={0})
    assert (code, out) == (1, "")
    assert "rank 0 of 2 did not start within 2 s" in err


def test_bench_compares_with_one_rank(torchrun, tmp_path):
    words = ["--model", str(MODELS / "toy-moe.json"), "--tokens", "5", "--routing", "uniform"]
    words += ["--exchange", "all_to_all_single", "--out", str(tmp_path)]
    (code, out, err), (_, other_out, _) = torchrun(2, "bench", "--ranks", *words)
    assert (code, other_out) == (0, ""), err
    (layer,) = json.loads((tmp_path / "ranks.json").read_text())["layers"]
    assert (layer["scheme"], layer["num_tokens"], layer["ranks"]) == ("bf16", 5, 2)
    assert layer["correct"]
    assert (tmp_path / "ranks.md").read_text() == out
    assert "| bf16 | toy-moe | uniform | 5 | all_to_all_single | " in out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300", "soon"])
def test_a_timeout_that_torch_does_not_take_is_refused(seconds, capsys):
    assert main([*CPU, "--ep", "--rank-timeout", seconds]) == 2
    said = f"--rank-timeout: {seconds!r} is no number of seconds up to 1e+06"
    assert said in capsys.readouterr().err


def test_no_ranks_are_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "0")
    monkeypatch.setenv("RANK", "0")
    assert (number_of_ranks(), this_rank()) == (1, 0)
