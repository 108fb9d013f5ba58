"""``moe-rules select``: which backend and kernel serve a layer."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from moe_rules.cli import deployment
from moe_rules.cli.options import Subparsers, add_deployment, add_format, command

if TYPE_CHECKING:
    from moe_rules.cli.deployment import Asked, Question
    from moe_rules.engine.decision import Decision


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "select",
        "say which backend and kernel serve a layer",
        "The layer comes from a model's config.json, or fact by fact from --set. A model with\n"
        "several kinds of MoE layers gets an answer for each; --layer picks one.\n"
        "Exit code 1: no backend serves; the reasons are on standard error.\n"
        "--format json: the decision; a list of them where there are several kinds of layers.\n"
        "What vLLM would refuse when it loads the weights is named, and changes no decision.",
        "moe-rules select --model config.json --machine h100 --tp 8",
    )
    add_deployment(parser)
    add_format(parser, "text", "json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decide and print."""
    asked = deployment.ask(args)
    decisions = [(q, None if q.oracle is None else asked.decide(q)) for q in asked.questions]
    if args.format == "json":
        print(as_json(asked, decisions))
    else:
        print("\n".join(_text(asked, question, decision) for question, decision in decisions))
    return exit_code(decisions)


def exit_code(decisions: list[tuple[Question, Decision | None]]) -> int:
    """1, with the reasons on standard error, if an oracle has no backend for a layer.

    That no oracle is asked is an answer: what runs then is said with it.
    """
    from moe_rules.selectors.errors import refusal

    errors = [refusal(decision) for _, decision in decisions if decision and decision.failed]
    for error in errors:
        print(f"moe-rules: {error}", file=sys.stderr)
    return int(bool(errors))


def no_oracle(question: Question) -> str:
    """Why nothing is decided for a layer."""
    layers = question.layers_in_words
    return f"no oracle is asked{f' for {layers}' if layers else ''}: {'; '.join(question.notes)}"


def as_json(asked: Asked, decisions: list[tuple[Question, Decision | None]]) -> str:
    """The decisions with what they are about; a list if there are several."""
    listed = [_plain(asked, question, decision) for question, decision in decisions]
    return json.dumps(listed if len(listed) > 1 else listed[0], indent=2)


def _plain(asked: Asked, question: Question, decision: Decision | None) -> dict[str, Any]:
    nothing = {"oracle": None, "backend": None, "kernel": None, "error": None}
    return {
        "model": asked.model,
        "layers": list(question.layers),
        "machine": asked.machine.to_dict(),
        **(nothing if decision is None else decision.to_dict()),
        "notes": list(question.notes),
        "load_refusals": question.load_refusals(decision),
        "by_num_tokens": [] if decision is None else _ranges(asked, question),
    }


def _ranges(asked: Asked, question: Question) -> list[dict[str, Any]]:
    """What serves calls of each size, where the rules tell calls apart."""
    ranges = asked.ranges(question)
    return [part.to_dict() for part in ranges] if len(ranges) > 1 else []


def range_lines(asked: Asked, question: Question) -> list[str]:
    """A line for each range of calls that is served differently; none where all are alike."""
    lines = []
    for part in _ranges(asked, question):
        tokens = (
            f"{part['first']} to {part['last']}" if part["last"] else f"{part['first']} or more"
        )
        lines.append(f"calls of {tokens} tokens: {part['backend']} / {part['kernel']}")
    return lines


def _text(asked: Asked, question: Question, decision: Decision | None) -> str:
    from moe_rules.cli.render import decision_lines, will_not_load

    subject = asked.subject(question)
    refusals = question.load_refusals(decision)
    if decision is None:
        return "\n".join([f"{subject}: {no_oracle(question)}", *map(will_not_load, refusals)])
    lines = decision_lines(subject, decision, question.notes, refusals)
    return "\n".join([*lines, *(f"  {line}" for line in range_lines(asked, question))])
