"""Memory of every rank that the other ranks of its host read and write.

On GPUs it is torch's symmetric memory, which other GPUs reach over NVLink; on CPUs files in shared
memory.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from moe_kernels.ranks.agreement import RankError
from moe_kernels.ranks.group import Ranks
from moe_kernels.ranks.host_memory import shared_files

# torch.distributed is annotated in part.
# mypy: allow-untyped-calls

_kept: WeakKeyDictionary[dist.ProcessGroup, dict[str, SymmetricBuffer]] = WeakKeyDictionary()
"""The largest buffer of each purpose that the ranks of a group have."""


class SymmetricBuffer:
    """``num_bytes`` on each rank. All ranks make one together, and say the same ``name``.

    parts: [num_bytes] uint8 of every rank. addresses: [ranks] int64, where these begin, on the
    device. Raises RankError where ranks do not reach each other's memory.
    """

    def __init__(self, ranks: Ranks, name: str, num_bytes: int, device: torch.device) -> None:
        self.num_bytes = num_bytes
        self.device = device
        self._timeout = ranks.timeout
        self._handle: Any = None
        if device.type == "cpu":
            self.parts = shared_files(ranks.tell, f"{name}/{num_bytes}", num_bytes)
        else:
            self._handle, self.parts = _on_gpus(ranks, num_bytes, device)
        addresses = [part.data_ptr() for part in self.parts]
        self.addresses = torch.tensor(addresses, dtype=torch.int64, device=device)

    def wait_for_all(self, ranks: Ranks) -> None:
        """What ranks wrote to others before they called this is there; on GPUs the stream waits."""
        if self._handle is None:
            arrived = torch.zeros(ranks.size, device="cpu")
            ranks.all_to_all(torch.empty_like(arrived), arrived)
        else:
            self._handle.barrier(timeout_ms=int(self._timeout * 1e3))


def symmetric_buffer(
    ranks: Ranks, name: str, num_bytes: int, device: torch.device
) -> SymmetricBuffer:
    """One of ``num_bytes`` or more, which layers of a group share that say the same ``name``.

    Raises RankError as :class:`SymmetricBuffer`.
    """
    buffers = _kept.setdefault(ranks.group, {})
    found = buffers.get(name)
    if found is None or found.num_bytes < num_bytes or found.device != device:
        found = buffers[name] = SymmetricBuffer(ranks, name, num_bytes, device)
    return found


def _on_gpus(ranks: Ranks, num_bytes: int, device: torch.device) -> tuple[Any, list[torch.Tensor]]:
    import torch.distributed._symmetric_memory as symmetric_memory

    try:
        memory = symmetric_memory.empty(num_bytes, dtype=torch.uint8, device=device)
        handle = symmetric_memory.rendezvous(memory, ranks.group.group_name)
        parts = [handle.get_buffer(i, (num_bytes,), torch.uint8) for i in range(ranks.size)]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RankError(
            f"the {ranks.size} ranks do not reach each other's memory: {reason}; "
            "all_to_all_single does without"
        ) from error
    return handle, parts
