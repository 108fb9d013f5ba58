"""The benchmark of the host's time, with a clock of its own and no GPU."""

import sys

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import host_time


@pytest.fixture
def clock(monkeypatch):
    """A clock that only calls move; nothing is waited for."""
    now = [0.0]
    monkeypatch.setattr(host_time.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return now


def test_calls_take_turns_and_the_first_ones_do_not_count(clock):
    order = []

    def call(name, us):
        def run():
            order.append(name)
            # Compilation comes first, and now and then the host is busy.
            slow = len(order) <= 2 or len(order) % 50 == 0
            clock[0] += (us + 1e6 * slow) * 1e-6

        return run

    found = host_time.host_us({"a": call("a", 30.0), "b": call("b", 90.0)}, rounds=100)
    assert found == pytest.approx({"a": 30.0, "b": 90.0})
    assert order == ["a", "b"] * (host_time.WARM_UP + 100)


@pytest.mark.parametrize(
    ("words", "message"), [(["bf61"], "unknown scheme 'bf61'; expected"), ([], "GPU is needed")]
)
def test_what_cannot_be_measured_is_said(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["host_time", *words])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        host_time.main()
    assert message in capsys.readouterr().err
