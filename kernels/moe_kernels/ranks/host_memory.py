"""Memory that the ranks of one host share, and numbers that they tell each other in it."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Tell = Callable[[str, Any], list[Any]]
"""What every rank says at a key: :meth:`moe_kernels.ranks.group.Ranks.tell`."""


def shared_files(tell: Tell, key: str, num_bytes: int) -> list[torch.Tensor]:
    """[num_bytes] uint8 of every rank, zeros at first, which all of them read and write."""
    shared = Path("/dev/shm")
    folder = shared if shared.is_dir() else Path(tempfile.gettempdir())
    own = folder / f"moe_kernels-{uuid.uuid4().hex}"
    own.touch(mode=0o600, exist_ok=False)
    try:
        with own.open("r+b") as file:
            file.truncate(num_bytes)
        parts = [
            torch.from_file(path, shared=True, size=num_bytes, dtype=torch.uint8)
            for path in tell(f"{key}/path", str(own))
        ]
        tell(f"{key}/open", None)
    finally:
        own.unlink()
    return parts


class Board:
    """Where each rank of a host writes two numbers for all, again and again.

    They are there within microseconds, and no GPU takes part. A rank that has written anew has read
    what all wrote before that: two places for each rank are enough.
    """

    def __init__(self, tell: Tell, rank: int, size: int) -> None:
        self._rank = rank
        self._round = 0
        self._held = shared_files(tell, "board", 2 * size * 4 * 8)
        # [2, ranks, 4]: the round, two numbers, and a check for what is half written.
        self._parts = [part.numpy().view("int64").reshape(2, size, 4) for part in self._held]

    def write(self, first: int, second: int) -> None:
        """Begin a round: tell all ranks two numbers from 0 to 2**63 - 1."""
        self._round += 1
        for part in self._parts:
            part[self._round % 2, self._rank] = (
                self._round, first, second, self._round ^ first ^ second
            )  # fmt: skip

    def is_written(self) -> bool:
        """Whether all ranks have written in this round."""
        rounds, first, second, check = self._parts[self._rank][self._round % 2].T
        return bool(((rounds == self._round) & (rounds ^ first ^ second == check)).all())

    def read(self) -> list[tuple[int, int]]:
        """The numbers of every rank, once all have written."""
        said = self._parts[self._rank][self._round % 2].tolist()
        return [(first, second) for _, first, second, _ in said]
