"""Whether a process is there, as another of its host sees it."""

import os
import subprocess
import sys

import pytest
from moe_kernels.ranks.processes import Process, _started, this_process

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="there is no /proc")


def test_a_process_is_there_until_it_ends():
    assert not this_process().is_gone
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = this_process()._replace(pid=child.pid, started=_started(child.pid))
    assert not process.is_gone
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, its parent waits not
    assert process.is_gone
    child.wait()
    assert process.is_gone


def test_a_number_that_is_used_again_is_another_process():
    assert this_process()._replace(started="1").is_gone


@pytest.mark.parametrize(
    "elsewhere", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}, {"started": ""}]
)
def test_of_others_nothing_is_known(elsewhere):
    ended = this_process()._replace(pid=2**22 + 1, started="1")
    assert ended.is_gone
    assert not ended._replace(**elsewhere).is_gone


def test_it_is_named_by_number_and_host():
    assert str(Process("node1", "", 4711, "1")) == "process 4711 on node1"


def test_a_container_is_a_place_of_its_own():
    own = this_process()
    assert own.place == own.host
    assert own._replace(namespace="pid:[1]").place == f"{own.host} (pid:[1])"
    assert own._replace(host="node1").place == "node1"
