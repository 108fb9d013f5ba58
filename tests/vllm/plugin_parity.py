"""Compares the plugin's selectors with vLLM's on one simulated platform, case by case.

As :mod:`tests.vllm.parity`, which is run alike, but what answers is what the plugin puts in the
place of vLLM's selectors: the machine is known from vLLM's own probes, switches from the
environment. Cases of which a third kind of answer is expected do not exist.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from tests.vllm.parity import ORACLES, compare, read_cases
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

    software = None
    known: dict[str, Any] = {}

    def ours(case: dict[str, Any]) -> Any:
        nonlocal software
        if case["software"] != software:
            software = case["software"]
            selector_for.cache_clear()
            known.clear()
        oracle = case["oracle"]
        if oracle not in known:
            original = objects.selector(oracle, ORACLES)
            known[oracle] = selecting(selectors.Tables(oracle, original), original)
        return known[oracle]

    print(json.dumps(compare(cases, world, ours)))


if __name__ == "__main__":
    main()
