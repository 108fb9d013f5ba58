"""Compares the plugin's selectors with vLLM's on one simulated platform, case by case.

As :mod:`tests.vllm.parity`, which is run alike, but what answers is what the plugin puts in the
place of vLLM's selectors: the machine is known from vLLM's own probes, switches from the
environment. Cases of which a third kind of answer is expected do not exist.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.vllm.parity import ORACLES, REFUSALS, outcome, read_cases, same
from tools.record import simulation


def main() -> None:
    name, *paths = sys.argv[1:]
    cases = read_cases([Path(path) for path in paths])
    world = simulation.start(next(c["platform"] for c in cases if c["platform"]["name"] == name))
    logging.disable(logging.CRITICAL)
    from moe_rules.integrations.vllm import selectors
    from moe_rules.integrations.vllm.plugin import selecting
    from moe_rules.selectors.selector import selector_for
    from tools.record import objects

    counts: Counter[str] = Counter()
    crashes: Counter[str] = Counter()
    differences: list[dict[str, Any]] = []
    software, ours = None, {}
    for case in cases:
        if case["software"] != software:
            software = case["software"]
            selector_for.cache_clear()
            ours.clear()
        world.set(case["software"], case["env"], objects.engine(case))
        try:
            args, options = objects.arguments(case)
        except (AssertionError, NotImplementedError, ValueError):
            counts["no layer in vLLM"] += 1
            continue
        oracle = case["oracle"]
        original = objects.selector(oracle, ORACLES)
        if oracle not in ours:
            ours[oracle] = selecting(selectors.Tables(oracle, original), original)
        theirs, answer = (outcome(f, args, options) for f in (original, ours[oracle]))
        counts["compared"] += 1
        if isinstance(theirs, Exception) and not isinstance(theirs, REFUSALS):
            crashes[f"{type(theirs).__name__}: {theirs} | {text(answer)}"] += 1
        elif same(theirs, answer):
            counts["refused" if isinstance(theirs, Exception) else "selected"] += 1
        else:
            asked = {"id": case["id"], "oracle": oracle}
            differences.append({**asked, "vllm": text(theirs), "ours": text(answer)})
    print(json.dumps({**counts, "crashes of vLLM": crashes, "differences": differences}))


def text(result: Any) -> str:
    if isinstance(result, Exception):
        return f"{type(result).__name__}: {str(result)[:300]}"
    return f"{result[0]!r}, {result[1]}"


if __name__ == "__main__":
    main()
