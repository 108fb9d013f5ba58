"""Processes of a real process group, which run one test after the other."""

import multiprocessing
import os
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

# Forked from a process that has torch already, and nothing else: spawning imports it every time.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rank_pool", "moe_kernels.testing", "moe_kernels.registry.bind"])


class RankFailedError(AssertionError):
    """A rank raised an error; the message has its traceback."""


class RankPool:
    """``size`` ranks, whose store this process hosts, as torchrun's agent does.

    ``store_at``: the port at which rank 0 is to host it instead, as without torchrun. ``backend``:
    gloo, or nccl, where every rank has the GPU of its number.
    """

    def __init__(self, size, timeout=60.0, store_at=None, backend="gloo"):
        self.size = size
        self._store = None
        port = store_at
        if store_at is None:
            self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            port = self._store.port
        self.pipes, self.processes = [], []
        for rank in range(size):
            here, there = CONTEXT.Pipe()
            settings = (rank, size, port, store_at is not None, timeout, backend)
            process = CONTEXT.Process(target=_serve, args=(there, *settings), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def start(self, function, *arguments):
        """Let every rank call ``function(rank, size, *arguments)``."""
        for pipe in self.pipes:
            pipe.send((function, arguments))

    def answer(self, rank, seconds=60.0):
        """Whether a rank's call returned, and what, or the traceback of what it raised."""
        if not self.pipes[rank].poll(seconds):
            return False, f"nothing within {seconds} s"
        return self.pipes[rank].recv()

    def run(self, function, *arguments):
        """What the calls of all ranks returned, in order. Raises RankFailedError if one raised."""
        self.start(function, *arguments)
        answers = [self.answer(rank) for rank in range(self.size)]
        failed = [f"rank {i}: {value}" for i, (done, value) in enumerate(answers) if not done]
        if failed:
            raise RankFailedError("\n".join(failed))
        return [value for _, value in answers]

    def stop(self):
        for process in self.processes:
            process.kill()
            process.join()


def _serve(pipe, rank, size, port, hosts_store, timeout, backend):
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(not hosts_store)
    torch.set_num_threads(1)
    store = dist.TCPStore(
        "127.0.0.1", port, size if hosts_store else None, is_master=hosts_store and rank == 0,
        wait_for_workers=False,
    )  # fmt: skip
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend,
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout),
        device_id=torch.device("cuda", rank) if backend == "nccl" else None,
    )
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((True, function(rank, size, *arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
