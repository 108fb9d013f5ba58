"""Where ranks say different things of one layer, in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

Facts = Mapping[str, str | int | None]
"""What every rank must say alike, by name."""


class RankError(RuntimeError):
    """Ranks that share a layer cannot go on: they disagree, or one of them is missing."""


def digest(facts: Facts) -> int:
    """63 bits that differ, in all likelihood, where ``facts`` do."""
    data = json.dumps(facts, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def disagreement(said: Mapping[int, Facts]) -> str | None:
    """What ranks say differently, as "topk: 8 on ranks 0, 1; 6 on rank 2"; None: nothing."""
    differing = []
    for name in dict.fromkeys(name for facts in said.values() for name in facts):
        ranks: dict[str, list[int]] = {}
        for rank, facts in said.items():
            ranks.setdefault(str(facts.get(name)), []).append(rank)
        if len(ranks) > 1:
            parts = [f"{value} on {in_words(who)}" for value, who in ranks.items()]
            differing.append(f"{name}: {'; '.join(parts)}")
    return ". ".join(differing) or None


def in_words(ranks: Sequence[int]) -> str:
    """Ranks as "rank 2" or "ranks 0, 1"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
