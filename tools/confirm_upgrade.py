r"""Asks two releases of vLLM whether an upgrade changes what ``moe-rules upgrade`` says.

``ask`` writes a case for every kind of layer of the models, and for every region that differs, with
what either release should come to. ``tools.record`` puts them to both releases, and ``answers``
compares::

    python -m tools.confirm_upgrade ask changes.jsonl.gz --from 0.32 --to 0.33 \\
        --model config.json --machine h100
    python -m tools.record 0.32.0 --inputs changes.jsonl.gz --out changes/0.32.0
    python -m tools.record 0.33.0 --inputs changes.jsonl.gz --out changes/0.33.0
    python -m tools.confirm_upgrade answers changes.jsonl.gz changes/0.32.0 changes/0.33.0
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moe_rules.analysis.difference import Answer, Difference
from moe_rules.analysis.worlds import packaged_worlds
from moe_rules.cli import build_parser
from moe_rules.cli.deployment import Question
from moe_rules.cli.errors import UserError, message_of
from moe_rules.cli.rule_sets import RuleSet, release_pair
from moe_rules.cli.upgrading import Asked, upgrade
from moe_rules.cli.witness import machine_like
from moe_rules.conformance.cases import case_files, read_lines
from moe_rules.conformance.writing import question_of
from moe_rules.machines.machine import Machine
from moe_rules.selectors.facts import layer_facts
from moe_rules.vocabulary.fact_values import FactValue, plain
from moe_rules.vocabulary.facts import FACTS, REQUEST_DEFAULTS
from moe_rules.vocabulary.layer import REQUIRED_FACTS, FusedMoEConfig
from moe_rules.vocabulary.switches import SWITCHES
from tools.record.places import ORACLES

ERRORS = {"ValueError": "invalid_request", "NotImplementedError": "not_supported"}
"""How the reference refuses, by what the rules call it."""
SIDES = ("before", "after")
_Change = tuple[str, Machine, Mapping[str, FactValue], tuple[Answer, Answer], str]
"""The oracle, the machine and the facts that are asked, what should come, and what it is about."""
_NO_KEYS: dict[str, FactValue] = {"weight_key": None, "activation_key": None}


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns its exit code: 0, 1 where an answer differs, 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m tools.confirm_upgrade", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    ask = commands.add_parser("ask", help="write cases; takes the options of moe-rules upgrade")
    ask.add_argument("out", type=Path)
    answers = commands.add_parser("answers", help="compare with what either release came to")
    answers.add_argument("asked", type=Path)
    for side in SIDES:
        answers.add_argument(side, type=Path)
    options, others = parser.parse_known_args(arguments)
    try:
        if options.command == "ask":
            return _write(options.out, others)
        if others:
            parser.error(f"unknown: {' '.join(others)}")
        return _compare(options.asked, (options.before, options.after))
    except UserError as error:
        message: str | None = str(error)
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
    print(f"error: {message}", file=sys.stderr)
    return 2


def _write(out: Path, words: Sequence[str]) -> int:
    args = build_parser(["upgrade"]).parse_args(["upgrade", *words])
    before, after = release_pair(args.before, args.after)
    found = upgrade(args, before, after)
    cases: dict[str, dict[str, Any]] = {}
    for case in (case for asked in found.asked for case in cases_of(asked, before)):
        if "older" in case["tags"] or case["id"] not in cases:
            cases[case["id"]] = case
    with gzip.open(out, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(case) + "\n" for case in cases.values())
    print(f"{len(cases)} cases in {out}")
    return 0


def cases_of(asked: Asked, before: RuleSet) -> Iterator[dict[str, Any]]:
    """A case for every kind of layer, and for every region that differs, of a model or of all."""
    for oracle, machine, facts, change, about in _changes(asked):
        case = _case(oracle, machine, facts)
        # What the older release has no word for, its users do not say.
        lacks = before.load(machine.device).withdrawn.keys() & facts.keys()
        older = _case(oracle, machine, {n: v for n, v in facts.items() if n not in lacks})
        said = dict(zip(SIDES, map(str, change), strict=True))
        yield {**case, "tags": {"about": about, **said, "older": older["id"]}}
        if older["id"] != case["id"]:
            yield {**older, "tags": {"about": about}}


def _changes(asked: Asked) -> Iterator[_Change]:
    readings = {one.reading.subject: one.reading for one in asked.served}
    for one in asked.served:
        question = one.reading.after
        # What the releases read otherwise they are not asked in one way.
        if one.reading.alike and isinstance(question, Question) and question.oracle is not None:
            where = f"{asked.model}, {one.reading.subject}"
            change = (one.before, one.after)
            yield question.oracle, one.reading.machine, question.facts, change, where
    for region in asked.comparison.differences if asked.comparison else ():
        found = region.difference
        facts: Mapping[str, FactValue] = {}
        machine = machine_of(found)
        where = f"{found.oracle} on {found.platform}"
        if asked.model is not None:
            reading = readings[region.subjects[0]]  # of which the deployment is
            assert isinstance(reading.after, Question)
            machine, facts = reading.machine, reading.after.facts
            where = f"{asked.model}, {reading.subject}, where users ask"
        change = (found.before, found.after)
        yield found.oracle, machine, {**facts, **found.witness}, change, where


def machine_of(found: Difference) -> Machine:
    """A machine with the facts of a region's deployment."""
    like = machine_like(found.platform, found.witness)
    facts = {n: v for n, v in found.witness.items() if FACTS[n].group == "platform"}
    software = {n: bool(v) for n, v in found.witness.items() if FACTS[n].group == "software"}
    return replace(
        like,
        platform={**like.platform, **facts},
        software={**like.software, **software},
    )


def _case(oracle: str, machine: Machine, facts: Mapping[str, FactValue]) -> dict[str, Any]:
    usual = packaged_worlds().usual
    layer: dict[str, Any] = {name: usual[name] for name in REQUIRED_FACTS}
    options = {n: False for n in ORACLES[oracle].takes if n in FACTS and FACTS[n].type == "bool"}
    known: dict[str, FactValue] = {**layer_facts(FusedMoEConfig(**layer)), **REQUEST_DEFAULTS}
    known |= {**_NO_KEYS, **options, **facts}
    words = {name: plain(facts[name]) for name in SWITCHES if facts.get(name) is not None}
    environ = {n: str(int(word)) if isinstance(word, bool) else word for n, word in words.items()}
    return question_of(oracle, machine, known, environ, "grid", {})


def _compare(asked: Path, folders: tuple[Path, Path]) -> int:
    recorded = [dict(_answers(folder)) for folder in folders]
    counts: Counter[str] = Counter()
    for _, case in read_lines(asked):
        tags = case["tags"]
        if "older" not in tags:
            continue  # it stands for another case
        came = [recorded[0].get(tags["older"]), recorded[1].get(case["id"])]
        said = [tags[side] for side in SIDES]
        kind = "as before" if said[0] == said[1] else "changed"
        if None in came:
            counts[f"{kind}, not recorded by both"] += 1
        elif came == said:
            counts[f"{kind}, confirmed"] += 1
        else:
            counts[f"{kind}, contradicted"] += 1
            texts = [" -> ".join(map(str, pair)) for pair in (said, came)]
            print(f"{tags['about']}: {texts[0]}, but came to {texts[1]}")
    for what, count in sorted(counts.items()):
        print(f"{count:6}  {what}")
    return int(any(not what.endswith(" confirmed") for what in counts))


def _answers(folder: Path) -> Iterator[tuple[str, str]]:
    """What a release came to, by the id of the case."""
    for file in case_files([folder]):
        for _, case in read_lines(file):
            yield case["id"], answer_of(case)


def answer_of(case: Mapping[str, Any]) -> str:
    """What the reference came to, in the words of the rules."""
    expect = case["expect"]
    if expect["outcome"] == "selected":
        return str(Answer(expect["backend"], expect["kernel"]))
    error = str(expect["error_type"])
    return ERRORS.get(error, error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
