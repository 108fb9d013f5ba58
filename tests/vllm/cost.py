"""Times one decision for vLLM's objects, and vLLM's own selection for the same objects.

Run as ``python -m tests.vllm.cost FILE.jsonl.gz``: takes one ordinary layer of each oracle from the
recorded cases of a platform and prints a table of medians in microseconds of CPU time, both warm.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_rules.machines.machine import Machine
from tests.vllm.parity import ORACLES, machine, read_cases
from tools.record import simulation

ROUNDS, CALLS = 15, 200


def microseconds(function: Callable[..., Any], args: Any, options: Any) -> float:
    """The median over rounds of the mean of some calls."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            function(*args, **options)
        rounds.append((time.process_time() - start) / CALLS * 1e6)
    return statistics.median(rounds)


def print_table(name: str, select: Callable[[str, Any, Machine], Callable[..., Any]]) -> None:
    """The table for the files that this script is run with.

    select: makes what selects here, in the column ``name``, of an oracle, vLLM's own selector and
    the simulated machine.
    """
    cases = read_cases([Path(path) for path in sys.argv[1:]])
    platform = cases[0]["platform"]
    ordinary = [c for c in cases if not c["env"] and c["expect"]["outcome"] == "selected"]
    usual = Counter(json.dumps(case["software"]) for case in ordinary).most_common(1)[0][0]
    software = json.loads(usual)
    world = simulation.start(platform)
    logging.disable(logging.CRITICAL)
    from tools.record import objects

    print(f"| oracle | backend | vLLM | {name} | ratio |\n| --- | --- | --- | --- | --- |")
    for oracle in objects.SELECTORS:
        found = (c for c in ordinary if c["oracle"] == oracle and c["software"] == software)
        case = next(found, None)
        if case is None:
            continue
        world.set(software, {}, objects.engine(case))
        args, options = objects.arguments(case)
        theirs = objects.selector(oracle, ORACLES)
        ours = select(oracle, theirs, machine(platform, software))
        assert ours(*args, **options) == theirs(*args, **options)
        a, b = (microseconds(function, args, options) for function in (theirs, ours))
        backend = case["expect"]["backend"]
        print(f"| {oracle} | {backend} | {a:.1f} | {b:.2f} | {b / a:.2f} |", flush=True)


def _oracle(oracle: str, theirs: Any, on: Machine) -> Callable[..., Any]:
    from tools.record import objects

    ours: Callable[..., Any] = objects.selector(oracle, "moe_rules.oracles")
    module = sys.modules[ours.__module__]
    which = "_deepseek_v4" if oracle == "mxfp4_deepseek_v4" else "_oracle"
    vars(module)[which].__init__(on)
    return ours


if __name__ == "__main__":
    print_table("moe_rules", _oracle)
