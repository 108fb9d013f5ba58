"""Changes one line of the packaged tables at random, and holds ``diff`` against the engine.

Where ``diff`` finds differences, the engine decides their deployments as it says; where it finds
none, the engine decides random deployments alike. ``python -m tests.analysis.mutants 1000`` prints
how many there were of each.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from moe_rules.analysis.difference import Answer, answer_of, differences
from moe_rules.analysis.worlds import packaged_worlds
from moe_rules.conformance.cases import case_files, read_cases
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import RuleFileError
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import foreign_facts
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.table_names import PLATFORMS

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
Facts = dict[str, FactValue]


def mutated(line: str, rng: random.Random) -> str:
    """The line with one thing changed, or without its content."""
    comment = line.partition(" #")[0]
    changes = []
    for match in re.finditer(r"(?<![\w.])\d+(?![\w.])", comment):
        number = int(match[0])
        for other in (number + 1, max(0, number - 1), number * 2):
            changes.append(comment[: match.start()] + str(other) + comment[match.end() :])
    for old, new in (
        ("true", "false"), ("false", "true"), (">=", ">"), ("<=", "<"), ("9.0", "10.0"),
        ("10.*", "12.*"), ("first:", "last:"), ("before:", "after:"), ("drop:", "withdraw:"),
        ("force:", "try:"), ("gfx942", "gfx950"), ("any:", "all:"), ("not: ", ""),
    ):  # fmt: skip
        for match in re.finditer(re.escape(old), comment):
            changes.append(comment[: match.start()] + new + comment[match.end() :])
    for match in re.finditer(r"\w+, ", comment):  # one fewer in a list or a mapping
        changes.append(comment[: match.start()] + comment[match.end() :])
    return rng.choice([*changes, ""])


def mutant(folder: Path, rng: random.Random) -> tuple[str, str]:
    """Change a line of a copy of the tables. Returns the platform, and what was changed."""
    platform = rng.choices(PLATFORMS, weights=[8, 5, 3, 4, 1, 1, 1])[0]
    path = Path(rng.choice(load_platform(platform, packaged=folder).files))
    lines = path.read_text().splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if line.strip() and line.strip()[0] != "#"])
    if rng.random() < 0.2 and at + 1 < len(lines):
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
        what = "swapped with the next"
    else:
        lines[at] = mutated(lines[at], rng)
        what = lines[at].strip() or "emptied"
    path.write_text("\n".join(lines) + "\n")
    return platform, f"{path.relative_to(folder)}:{at + 1}: {what}"


@cache
def recorded(platform: str) -> list[tuple[str, Facts]]:
    """Recorded deployments of a platform, with their oracles."""
    return [
        (case.oracle, case.facts)
        for path in case_files([SAMPLES])
        for case in read_cases(path)
        if case.constants["device"] == platform
    ]


def deployment(platform: str, rng: random.Random) -> tuple[str, Facts]:
    """A recorded deployment with some facts as in another one, or of any value."""
    oracle, facts = rng.choice(recorded(platform))
    facts = dict(facts)
    _, other = rng.choice([one for one in recorded(platform) if one[0] == oracle])
    for name in rng.sample(sorted(facts), rng.randint(0, 6)):
        facts[name] = other.get(name, facts[name])
        if FACTS[name].type == "enum" and rng.random() < 0.5 and FACTS[name].group == "layer":
            facts[name] = rng.choice(FACTS[name].values)
        elif FACTS[name].type == "bool" and FACTS[name].group in ("layer", "software"):
            facts[name] = rng.random() < 0.5
        elif name in ("num_experts", "hidden_dim", "intermediate_size_per_partition"):
            facts[name] = rng.choice([1, 16, 48, 96, 992, 993, 1024, 2048, 2049, 4096, 4104])
    return oracle, facts


def possible(facts: Mapping[str, FactValue]) -> bool:
    return not any(one.when.holds(facts) is True for one in packaged_worlds().impossible)


class Engine:
    """What the engine decides by some rules."""

    def __init__(self, rules: PlatformRules) -> None:
        self.rules = rules
        self.selector = Selector(rules, {}, unknown=())

    def __call__(self, oracle: str, facts: Mapping[str, FactValue]) -> Answer:
        return answer_of(self.selector.decide(oracle, facts).result)


def check(seed: int, deployments: int) -> tuple[str, str]:
    """One mutant: what it came to, and what was changed. Raises AssertionError."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "rules")
        shutil.copytree(packaged_rules(), folder)
        try:
            platform, what = mutant(folder, rng)
            after = load_platform(platform, packaged=folder)
            shutil.rmtree(folder)
            shutil.copytree(packaged_rules(), folder)
            before = load_platform(platform, packaged=folder)
        except RuleFileError:
            return "refused", ""
    engines = Engine(before), Engine(after)
    count = 0
    common = {"device": platform, **foreign_facts(platform)}
    for oracle in before.oracles:
        for one in differences(before, after, oracle):
            if oracle not in after.oracles:
                return "different", what
            facts = {**common, **one.witness}
            found = tuple(engine(oracle, facts) for engine in engines)
            assert found == (one.before, one.after), (seed, what, oracle, facts, found)
            count += 1
    if count:
        return "different", what
    tried = 0
    while tried < deployments:
        oracle, facts = deployment(platform, rng)
        if possible(facts):
            one, other = (engine(oracle, facts) for engine in engines)
            assert one == other, (seed, what, oracle, facts, one, other)
            tried += 1
    return "alike", what


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="mutants that the tables take")
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant")
    parser.add_argument("--deployments", type=int, default=5000, help="where diff says alike")
    parser.add_argument("--show", action="store_true", help="print each mutant")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    seed = args.seed
    while counts["different"] + counts["alike"] < args.count:
        outcome, what = check(seed, args.deployments)
        counts[outcome] += 1
        if args.show and what:
            print(f"{seed} {outcome}: {what}", flush=True)
        seed += 1
    seconds = time.perf_counter() - start
    print(", ".join(f"{outcome} {number}" for outcome, number in sorted(counts.items())))
    print(f"{seconds:.0f} s; refused ones are not rules")


if __name__ == "__main__":
    main()
