"""``Ranks``: collectives of one layer that end with an error which names who is missing.

What a backend of torch.distributed says when a rank dies or hangs names none: gloo gives
"Connection reset by peer" at once, or a timeout; NCCL's kernels wait until its watchdog ends the
process. So ranks wait on the host, for less than the group's timeout. A rank that waited in vain
says so in the group's store and reads there who else did: who did not is missing, because it is
gone (a process of the same host) or because nothing was heard of it until the timeout.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from moe_kernels.ranks.agreement import Facts, RankError, digest, disagreement
from moe_kernels.ranks.host_memory import Board
from moe_kernels.ranks.processes import Process, this_process

# torch.distributed is annotated in part.
# mypy: allow-untyped-calls

_PATIENCE = 0.75
"""The share of the timeout that a wait may take; in the rest, ranks find out who is missing."""
_SPIN = 2e-4
"""Seconds for which a rank asks without a pause: what is sent usually comes within them."""
_POLL = 0.005
"""The most seconds between two questions whether something is done."""
_LOOK = 0.05
"""Seconds between two looks at whether the other ranks are there."""
_GRACE = 1.0
"""Seconds for which what a rank sent before it ended may be on its way."""


_calling: WeakKeyDictionary[dist.ProcessGroup, object] = WeakKeyDictionary()
"""The call that is under way in a group, in this process."""


class Ranks:
    """The ranks of a process group as one layer uses them. Made by all ranks in the same order.

    ``rank`` and ``size`` are those of ``group``; ``numbers`` are what all processes call its ranks,
    as messages do; ``timeout`` is the group's, in seconds; ``calls`` counts those of the layer;
    ``hosts`` has the host of each rank once they agreed, of which a container is one of its own.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """``group`` None: of all ranks. Raises ValueError where there is none."""
        if not dist.is_initialized():
            raise ValueError(
                "ranks need a process group: start with torchrun and call "
                "torch.distributed.init_process_group()"
            )
        self.group = group or dist.distributed_c10d._get_default_group()
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.numbers = dist.get_process_group_ranks(self.group)
        self.timeout = _timeout_of(self.group)
        store = dist.distributed_c10d._get_process_group_store(self.group)
        layer = store.add(f"moe_kernels/layers/{self.rank}", 1)
        self._said = dist.distributed_c10d.PrefixStore(f"moe_kernels/layer/{layer}", store)
        self._failures = dist.distributed_c10d.PrefixStore("moe_kernels/failures", store)
        self._processes: list[Process] = []
        self.hosts: list[str] = []
        self._board: Board | None = None
        self.calls = 0

    def begin_layer(self) -> None:
        """Begin another call of the layer. Raises RankError where one in the group has not ended.

        The other ranks wait for what that still has to send, and would take this call's for it.
        """
        call = object()
        if _calling.setdefault(self.group, call) is not call:
            raise RankError(
                f"a call of a layer has begun on rank {self.numbers[self.rank]} and not ended: its "
                "experts raised an error, or another thread is in it; the process group is of no "
                "use any more"
            )
        self.calls += 1

    def end_layer(self) -> None:
        """The call has nothing more to send."""
        _calling.pop(self.group, None)

    # What ranks say ------------------------------------------------------------------------------

    def agree(self, facts: Facts, own: Any) -> list[Any]:
        """Refuse ranks that do not say the same ``facts``; every rank's ``own``, which JSON takes.

        Raises RankError, which says who has what, or who did not come within the timeout.
        """
        said = self.tell("agreement", [facts, own, this_process()])
        self._processes = [Process(*process) for _, _, process in said]
        self.hosts = [process.place for process in self._processes]
        self._refuse([facts for facts, _, _ in said], "")
        return [own for _, own, _ in said]

    def begin_call(
        self, facts: Facts, counts: torch.Tensor
    ) -> Callable[[], tuple[list[int], list[int]]]:
        """Begin to exchange ``counts`` [size] int64, one for every rank.

        What returns waits on the host: for the counts sent, and those received. It raises RankError
        where ranks say different ``facts`` or are in different calls: before anything else is sent.
        """
        facts = {**facts, "number of the call": self.calls}
        both = counts.new_empty(2, self.size, 2)
        both[0, :, 0] = counts
        both[0, :, 1] = digest(facts)
        self.all_to_all(both[1], both[0])
        on_host = self._to_host(both)

        def wait() -> tuple[list[int], list[int]]:
            sent, received = on_host().tolist()
            if any(theirs != sent[0][1] for _, theirs in received):
                self._refuse(self.tell("facts", facts), " in a call")
            return [count for count, _ in sent], [count for count, _ in received]

        return wait

    def most(self, facts: Facts, number: int, device: torch.device) -> int:
        """The largest ``number`` that a rank has; waits for all, on the host.

        Ranks of one host tell each other without ``device``. Raises RankError as
        :meth:`begin_call`.
        """
        if len(set(self.hosts)) > 1:
            numbers = torch.full((self.size,), number, dtype=torch.int64, device=device)
            return max(self.begin_call(facts, numbers)()[1])
        board = self._board = self._board or Board(self.tell, self.rank, self.size)
        facts = {**facts, "number of the call": self.calls}
        own = digest(facts)
        board.write(own, number)
        self._wait("the exchange of counts", board.is_written)
        said = board.read()
        if any(theirs != own for theirs, _ in said):
            self._refuse(self.tell("facts", facts), " in a call")
        return max(theirs for _, theirs in said)

    def _refuse(self, said: Sequence[Facts], where: str) -> None:
        found = disagreement(dict(zip(self.numbers, said, strict=True)))
        if found is not None:
            raise RankError(f"the {self.size} ranks of a layer disagree{where}: {found}")

    def tell(self, key: str, what: Any) -> list[Any]:
        """What every rank says at ``key``, which is new to the layer, in the order of ranks.

        ``what`` is this one's, which JSON takes. Raises RankError if one does not come.
        """
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        self._said.set(keys[self.rank], json.dumps(what))
        missing = absent(self._said, keys, self.timeout)
        if missing:
            raise RankError(
                f"{self._named(missing)} of {self.size} ranks did not come to agree on a layer "
                f"within {self.timeout:g} s: it hangs, or is gone"
            )
        return [json.loads(self._said.get(key)) for key in keys]

    # Collectives ---------------------------------------------------------------------------------

    def all_to_all(
        self,
        output: torch.Tensor,
        tensor: torch.Tensor,
        output_rows: list[int] | None = None,
        input_rows: list[int] | None = None,
    ) -> None:
        """``all_to_all_single``: so many rows for every rank, or the same number for each."""
        self._collective(
            "all_to_all_single", dist.all_to_all_single, output, tensor, output_rows, input_rows
        )

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor) -> None:
        """Every rank's ``tensor``, one after the other."""
        self._collective("all_gather", _function("all_gather"), output, tensor)

    def reduce_scatter(self, output: torch.Tensor, tensor: torch.Tensor) -> None:
        """The sum of what all ranks have for this one: [n, H] of their [size * n, H]."""
        if tensor.device.type == "cpu":
            # gloo's reduce-scatter never says that it is done.
            parts = torch.empty_like(tensor)
            self.all_to_all(parts, tensor)
            output.copy_(parts.view(self.size, *output.shape).sum(0, dtype=torch.float32))
            return
        self._collective("reduce_scatter", _function("reduce_scatter"), output, tensor)

    def put(self, write: Callable[[], object], wait_for_all: Callable[[Ranks], object]) -> None:
        """``write`` to the memory of other ranks; after ``wait_for_all`` what they wrote is here.

        As :class:`moe_kernels.ranks.symmetric_buffer.SymmetricBuffer` has both.
        """
        write()
        wait_for_all(self)

    def gather(self, values: Sequence[float], device: torch.device) -> list[list[float]]:
        """Every rank's ``values``, as many on each; waits on the host until all are here."""
        own = torch.tensor([values] * self.size, dtype=torch.float64, device=device)
        found = torch.empty_like(own)
        self.all_to_all(found, own)
        rows: list[list[float]] = self._to_host(found)().tolist()
        return rows

    def _collective(self, name: str, start: Callable[..., Any], *arguments: Any) -> None:
        begin = time.monotonic()
        try:
            work = start(*arguments, group=self.group, async_op=True)
            if arguments[0].device.type == "cpu":
                self._wait(name, work.is_completed)
            work.wait()  # of other devices the stream does; the host goes on
        except RankError:
            raise
        except RuntimeError as error:
            self._fail(name, begin, error)

    def _to_host(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to copy ``tensor`` to the host; what returns waits until it is there."""
        if tensor.device.type == "cpu":
            return lambda: tensor
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def wait() -> torch.Tensor:
            self._wait("the exchange of counts", done.query)
            return host

        return wait

    def _wait(self, what: str, is_done: Callable[[], bool]) -> None:
        """Wait for what other ranks do, too. Raises RankError if one of them cannot."""
        begin = time.monotonic()
        look = begin + _LOOK
        missed: float | None = None
        while not is_done():
            now = time.monotonic()
            if now - begin > _PATIENCE * self.timeout:
                self._fail(what, begin, None)
            if now > look:
                look = now + _LOOK
                if self._someone_failed():
                    self._fail(what, begin, None)
                # What a rank sent before it ended in good order may still be on its way.
                if not any(process.is_gone for process in self._processes):
                    missed = None
                elif missed is None:
                    missed = now
                elif now - missed > _GRACE:
                    self._fail(what, begin, None)
            time.sleep(0 if now - begin < _SPIN else min(_POLL, (now - begin) / 16))

    # Who is missing ------------------------------------------------------------------------------

    def _fail(self, what: str, begin: float, error: RuntimeError | None) -> NoReturn:
        """Find out, before ``begin`` plus the timeout, which ranks do not say that it failed."""
        said = str(error).partition("\n")[0] if error else "nothing came"
        where = f"{what} of {self.size} ranks failed, in call {self.calls} of a layer"
        missing = [rank for rank in range(self.size) if rank != self.rank]
        gone: list[int] = []
        try:
            self._failures.set(f"{self.rank}", said)
            self._failures.set("any", "")
            while missing and not gone and time.monotonic() < begin + self.timeout:
                time.sleep(_POLL)
                gone = [rank for rank in missing if self._is_gone(rank)]
                missing = self._silent(missing)
            gone = self._silent(gone)  # a rank may have said so and ended
            self._leave(begin + self.timeout)
        except RuntimeError:
            host = "rank 0, whose store the ranks meet in, is gone"
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                host = "torchrun, whose store the ranks meet in, is gone"
            raise RankError(f"{host}: {where} ({said})") from error
        if gone:
            raise RankError(f"{self._named(gone)} is gone: {where} ({said})") from error
        if missing:
            raise RankError(
                f"{self._named(missing)} did not take part within {self.timeout:g} s: {where}; "
                f"it hangs, or is gone ({said})"
            ) from error
        raise RankError(f"{where} on all of them: {said}") from error

    def _someone_failed(self) -> bool:
        """Whether a rank says so, or the store has gone with the process that holds it."""
        try:
            return bool(self._failures.check(["any"]))
        except RuntimeError:
            return True

    def _is_gone(self, rank: int) -> bool:
        return bool(self._processes) and self._processes[rank].is_gone

    def _silent(self, ranks: list[int]) -> list[int]:
        """Those of ``ranks`` that do not say that they failed."""
        return [rank for rank in ranks if not self._failures.check([f"{rank}"])]

    def _leave(self, deadline: float) -> None:
        """The process of rank 0, which may hold the store, ends after those that read in it."""
        self._failures.set(f"left/{self.rank}", "")
        if dist.get_rank() != 0:
            return
        others = [rank for rank in range(self.size) if self._failures.check([f"{rank}"])]
        while time.monotonic() < deadline + _PATIENCE:
            if all(self._failures.check([f"left/{rank}"]) for rank in others):
                return
            time.sleep(_POLL)

    def _named(self, ranks: list[int]) -> str:
        """Ranks, with their processes where these are known."""
        named = [f"rank {self.numbers[rank]}" for rank in ranks]
        if self._processes:
            named = [f"{name} ({self._processes[i]})" for name, i in zip(named, ranks, strict=True)]
        return ", ".join(named)


def absent(store: dist.distributed_c10d.Store, keys: Sequence[str], seconds: float) -> list[int]:
    """The ranks that did not set their key in ``store`` within so many seconds."""
    deadline = time.monotonic() + seconds
    missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
    while missing and time.monotonic() < deadline:
        time.sleep(_POLL)
        missing = [rank for rank in missing if not store.check([keys[rank]])]
    return missing


def _function(collective: str) -> Callable[..., Any]:
    """One that takes tensors, not lists of them: torch 2.13 names these anew."""
    older = {"all_gather": "all_gather_into_tensor", "reduce_scatter": "reduce_scatter_tensor"}
    name = f"{collective}_single"
    function: Callable[..., Any] = getattr(dist, name, None) or getattr(dist, older[collective])
    return function


def _timeout_of(group: dist.ProcessGroup) -> float:
    """Seconds that a group's collectives may take: the least, where it has several backends."""
    backends = [group._get_backend(device) for device in group._device_types]
    return min(backend.options._timeout.total_seconds() for backend in backends)
