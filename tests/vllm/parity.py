"""Compares this package's selectors with vLLM's on one simulated platform, case by case.

Run as ``python -m tests.vllm.parity PLATFORM FILE.jsonl.gz ...``: asks both for every case of the
files with the same objects, whatever platform it was recorded on, and prints one JSON object.
Both answer with vLLM's own member and class, or with an instance of vLLM's error type. An error of
vLLM's that is no refusal is counted as a crash of vLLM's, with what we answer there.
"""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moe_rules.conformance.cases import platform_facts
from moe_rules.machines.machine import Machine
from tools.record import places, simulation

ORACLES = f"{places.FUSED_MOE}.oracle"
REFUSALS = (ValueError, NotImplementedError)


def read_cases(paths: list[Path]) -> list[dict[str, Any]]:
    """The cases of the files, those of one world in a row."""
    cases = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            cases += [json.loads(line) for line in lines]
    return sorted(cases, key=lambda case: json.dumps([case["software"], case["env"]]))


def machine(platform: Mapping[str, Any], software: Mapping[str, bool]) -> Machine:
    """The simulated machine, as facts."""
    from moe_rules.machines.machine import DEVICE_OF

    facts = platform_facts(platform)
    foreign = {name for name, device in DEVICE_OF.items() if device != facts["device"]}
    return Machine(
        "simulated", {n: v for n, v in facts.items() if n not in foreign}, software, "simulation"
    )


def outcome(function: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    """What a selector returns, or the error that it raises."""
    try:
        return function(*args, **options)
    except Exception as error:
        return error


def same(theirs: Any, ours: Any) -> bool:
    """Whether both are the same objects, or ours is an instance of vLLM's error type."""
    if isinstance(theirs, Exception):
        return isinstance(ours, type(theirs))
    return not isinstance(ours, Exception) and all(
        a is b for a, b in zip(theirs, ours, strict=True)
    )


def compare(
    cases: list[dict[str, Any]], world: Any, ours: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """What vLLM's selectors and those that ``ours`` has for cases say, in a simulated world."""
    from tools.record import objects

    counts: Counter[str] = Counter()
    crashes: Counter[str] = Counter()
    differences: list[dict[str, Any]] = []
    for case in cases:
        world.set(case["software"], case["env"], objects.engine(case))
        try:
            args, options = objects.arguments(case)
        except (AssertionError, NotImplementedError, ValueError):
            counts["no layer in vLLM"] += 1
            continue
        selectors = (objects.selector(case["oracle"], ORACLES), ours(case))
        theirs, answer = (outcome(selector, args, options) for selector in selectors)
        counts["compared"] += 1
        if isinstance(theirs, Exception) and not isinstance(theirs, REFUSALS):
            crashes[f"{type(theirs).__name__}: {theirs} | {_text(answer)}"] += 1
        elif same(theirs, answer):
            counts["refused" if isinstance(theirs, Exception) else "selected"] += 1
        else:
            asked = {"id": case["id"], "oracle": case["oracle"]}
            differences.append({**asked, "vllm": _text(theirs), "ours": _text(answer)})
    return {**counts, "crashes": crashes, "differences": differences}


def main() -> None:
    name, *paths = sys.argv[1:]
    cases = read_cases([Path(path) for path in paths])
    platform = next(c["platform"] for c in cases if c["platform"]["name"] == name)
    world = simulation.start(platform)
    from moe_rules.oracles.base import MoEKernelOracle

    oracles = oracle_classes(MoEKernelOracle)
    known: dict[Any, MoEKernelOracle[Any]] = {}

    def ours(case: dict[str, Any]) -> Any:
        key = (case["oracle"], json.dumps(case["software"]))
        if key not in known:
            known[key] = oracles[case["oracle"]](machine(platform, case["software"]))
        return _selector(known[key])

    print(json.dumps(compare(cases, world, ours)))


def oracle_classes(base: Any) -> dict[str, Any]:
    """Every oracle class, by the name of its table."""
    for one in places.ORACLES.values():
        importlib.import_module(f"moe_rules.oracles.{one.module}")
    found, todo = {}, [base]
    while todo:
        todo += (subclasses := todo.pop().__subclasses__())
        found.update({cls.name: cls for cls in subclasses})
    return found


def _selector(oracle: Any) -> Any:
    """An oracle's method with the parameters of vLLM's function."""
    if oracle.name == "mxfp4":
        return lambda config, activation_key=None: oracle.select_backend(
            config, None, activation_key
        )
    return oracle.select_backend


def _text(result: Any) -> str:
    if isinstance(result, Exception):
        return f"{type(result).__name__}: {str(result)[:300]}"
    return f"{result[0]!r}, {result[1]}"


if __name__ == "__main__":
    main()
