"""``moe-rules nearest``: the least change after which a backend is selected."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from moe_rules.cli import deployment
from moe_rules.cli.options import (
    Subparsers,
    add_backend,
    add_deployment,
    add_format,
    command,
    print_json,
)

if TYPE_CHECKING:
    from moe_rules.cli.deployment import Asked, Question


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "nearest",
        "say the least change after which a backend is selected",
        "Exact, over all deployments on the platform that can be: requests, switches, software\n"
        "and parallelism are changed before the device and the checkpoint. The values named are\n"
        "some that will do. Exit code 0: there is a way, or it is selected already; 1: there is\n"
        "none.",
        "moe-rules nearest FLASHINFER_TRTLLM --model config.json --machine h100",
    )
    add_backend(parser)
    add_deployment(parser)
    add_format(parser, "text", "json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer for every kind of layer."""
    asked = deployment.ask(args)
    answers = [_answer(asked, question, args.backend) for question in asked.questions]
    if args.format == "json":
        print_json([answer for answer, _ in answers])
    else:
        print("\n".join(line for _, lines in answers for line in lines))
    return int(not all(answer["nearest"] for answer, _ in answers))


def _answer(asked: Asked, question: Question, word: str) -> tuple[dict[str, Any], list[str]]:
    """The plain form of an answer, and its lines."""
    from moe_rules.analysis.nearest import in_words, least_changes
    from moe_rules.cli.commands.select import no_oracle
    from moe_rules.cli.commands.why_not import backend_name

    about = {"subject": asked.subject(question), "layers": list(question.layers)}
    if question.oracle is None:
        return {**about, "nearest": []}, [f"{about['subject']}: {no_oracle(question)}"]
    decision = asked.decide(question)
    name = backend_name(decision, word)
    ways = least_changes(decision, name)
    answer = {
        **about,
        "oracle": decision.oracle,
        "backend": name,
        "selected": decision.backend == name,
        "nearest": [[change.to_dict() for change in changes] for changes in ways],
    }
    if decision.backend == name:
        lines = [f"  {name} is selected"]
    elif ways:
        more = ", any of" if len(ways) > 1 else ""
        lines = [f"  {name} is selected with{more}", *(f"    {line}" for line in in_words(ways))]
    else:
        lines = [f"  nothing on {decision.platform} selects {name}"]
    return answer, [f"{about['subject']}:", *lines]
