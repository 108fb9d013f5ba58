"""Which process a rank is, so that others can say whether it is still there."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """One process. ``started``: by the clock of its host, so that a number used again differs."""

    host: str
    namespace: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def place(self) -> str:
        """Its host, as others tell it apart from theirs: with the namespace, if not this one's."""
        known = self.namespace == _namespace()
        return self.host if known else f"{self.host} ({self.namespace})"

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, as far as this process can see: False where it cannot."""
        if not self.started or (self.host, self.namespace) != this_process()[:2]:
            return False
        return _started(self.pid) != self.started


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    return Process(socket.gethostname(), _namespace(), pid, _started(pid))


def _namespace() -> str:
    """Where numbers of processes mean the same; Linux has several."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started; empty if it has ended, or where there is no /proc."""
    try:
        # After the name in brackets, which may hold anything: the state, ..., the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
