"""Times one decision in the plugin, and vLLM's own selection for the same objects.

As :mod:`tests.vllm.cost`, which is run alike, but what is timed is what the plugin puts in the
place of vLLM's selectors.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from pathlib import Path

from tests.vllm.cost import microseconds
from tests.vllm.parity import ORACLES, read_cases
from tools.record import simulation


def main() -> None:
    cases = read_cases([Path(path) for path in sys.argv[1:]])
    ordinary = [c for c in cases if not c["env"] and c["expect"]["outcome"] == "selected"]
    usual = Counter(json.dumps(case["software"]) for case in ordinary).most_common(1)[0][0]
    software = json.loads(usual)
    world = simulation.start(cases[0]["platform"])
    logging.disable(logging.CRITICAL)
    from moe_rules.integrations.vllm.plugin import selecting
    from moe_rules.integrations.vllm.selectors import Tables
    from tools.record import objects

    print("| oracle | backend | vLLM | plugin | ratio |\n| --- | --- | --- | --- | --- |")
    for oracle in objects.SELECTORS:
        found = (c for c in ordinary if c["oracle"] == oracle and c["software"] == software)
        case = next(found, None)
        if case is None:
            continue
        world.set(software, {}, objects.engine(case))
        args, options = objects.arguments(case)
        theirs = objects.selector(oracle, ORACLES)
        ours = selecting(Tables(oracle, theirs), theirs)
        assert ours(*args, **options) == theirs(*args, **options)
        a, b = (microseconds(function, args, options) for function in (theirs, ours))
        backend = case["expect"]["backend"]
        print(f"| {oracle} | {backend} | {a:.1f} | {b:.2f} | {b / a:.2f} |", flush=True)


if __name__ == "__main__":
    main()
