"""Makes cases whose environment sets a switch to odd text, for :mod:`tests.vllm.parity`.

Run as ``python -m tests.vllm.odd_switches OUT.jsonl.gz COUNT FILE.jsonl.gz ...``: takes recorded
cases at random (seeded), and gives each one switch with one of the texts that
``tests/vocabulary/switch_readings.json`` has for it. What vLLM recorded without it is left out.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.vllm.parity import read_cases

READINGS = Path(__file__).parents[1] / "vocabulary" / "switch_readings.json"


def odd_cases(cases: list[dict[str, Any]], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """``count`` of the cases, or all if there are fewer, each with a switch set to odd text."""
    draw = random.Random(seed)
    readings = json.loads(READINGS.read_text(encoding="utf-8"))["readings"]
    found = []
    for case in draw.sample(cases, min(count, len(cases))):
        name = draw.choice(sorted(readings))
        text = draw.choice(sorted(readings[name]["texts"]))
        found.append(
            {
                **{key: value for key, value in case.items() if key != "expect"},
                "id": f"{case['id']} {name}={text!r}",
                "env": {**case["env"], name: text},
            }
        )
    return found


def main() -> None:
    out, count, *paths = sys.argv[1:]
    cases = odd_cases(read_cases([Path(path) for path in paths]), int(count))
    with gzip.open(out, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(case) + "\n" for case in cases)


if __name__ == "__main__":
    main()
