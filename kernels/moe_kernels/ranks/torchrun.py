"""The ranks that torchrun started, and their process group. Imports torch when it makes one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

# torch.distributed is annotated in part.
# mypy: allow-untyped-calls

if TYPE_CHECKING:
    import torch

    from moe_kernels.ranks.group import Ranks


TIMEOUT = 300.0
"""Seconds after which a rank that does not come is missing, unless asked otherwise."""
_MOST = 1e6
"""The most that can be asked; what torch counts them in is finite."""


def add_timeout(parser: argparse._ActionsContainer) -> None:
    """``--rank-timeout``."""
    parser.add_argument(
        "--rank-timeout",
        type=_seconds,
        default=TIMEOUT,
        metavar="S",
        help="with torchrun: a rank that does not come within so many seconds ends the others; "
        f"default: {TIMEOUT:g}",
    )


def _seconds(text: str) -> float:
    """A timeout that torch takes."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to {_MOST:g}")
    return seconds


def number_of_ranks() -> int:
    """How many ranks torchrun started; 1 where it did not start this process."""
    size = os.environ.get("WORLD_SIZE", "")
    return max(1, int(size)) if size.isdecimal() and started_by_torchrun() else 1


def started_by_torchrun() -> bool:
    """Whether this process is a rank, and be it the only one."""
    return "RANK" in os.environ


def this_rank() -> int:
    """The number of this one, from 0."""
    return int(os.environ["RANK"]) if number_of_ranks() > 1 else 0


@contextmanager
def process_group(kind: str, timeout: float) -> Iterator[tuple[Ranks, torch.device]]:
    """All ranks in a process group, and this one's device: ``kind`` "cuda" (NCCL) or "cpu" (gloo).

    ``timeout``: seconds after which a collective fails. Raises ValueError where there is no GPU for
    a rank, RankError if they do not meet or have different versions of torch.
    """
    from datetime import timedelta

    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from moe_kernels.ranks.agreement import RankError, in_words
    from moe_kernels.ranks.group import Ranks, absent

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
    limit = timedelta(seconds=timeout)
    try:
        store, rank, size = next(rendezvous("env://", timeout=limit))
        keys = [f"moe_kernels/started/{i}" for i in range(size)]
        store.set(keys[rank], "")
        missing = absent(store, keys, timeout)
        if missing:
            raise RankError(f"{in_words(missing)} of {size} did not start within {timeout:g} s")
        dist.init_process_group(
            "nccl" if kind == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=limit,
            device_id=bound,
        )
    except RankError:
        raise
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RankError(f"the {number_of_ranks()} ranks did not meet: {reason}") from error
    ranks = Ranks()
    ranks.agree({"torch": torch.__version__, "device": kind}, None)
    try:
        yield ranks, device
    except BaseException:
        if kind == "cuda":
            # Kernels of NCCL that wait for a rank that is missing would keep the process.
            dist.distributed_c10d._abort_process_group(ranks.group)
        raise
    dist.destroy_process_group()
