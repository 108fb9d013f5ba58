"""The ranks that torchrun started, and their process group. Imports torch when it makes one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist


def number_of_ranks() -> int:
    """How many ranks torchrun started; 1 where it did not start this process."""
    size = os.environ.get("WORLD_SIZE", "")
    return int(size) if size.isdecimal() and "RANK" in os.environ else 1


def this_rank() -> int:
    """The number of this one, from 0."""
    return int(os.environ["RANK"]) if number_of_ranks() > 1 else 0


@contextmanager
def process_group(kind: str, timeout: float) -> Iterator[tuple[dist.ProcessGroup, torch.device]]:
    """All ranks, and this one's device: ``kind`` "cuda" (NCCL) or "cpu" (gloo).

    ``timeout``: seconds after which a collective fails. Raises ValueError where there is no GPU for
    a rank.
    """
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    device, bound = torch.device(kind), None
    if kind == "cuda":
        local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= count:
            raise ValueError(
                f"rank {this_rank()} is number {local} on its host, where torch sees {count} "
                "GPUs: start at most as many ranks on a host"
            )
        device = bound = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout),
        device_id=bound,
    )
    try:
        yield dist.distributed_c10d._get_default_group(), device
    finally:
        dist.destroy_process_group()
