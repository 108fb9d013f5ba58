"""``moe-rules why-not``: what keeps one backend from serving a layer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from moe_rules.cli import deployment
from moe_rules.cli.errors import UserError
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
    from moe_rules.engine.decision import Decision
    from moe_rules.engine.explanation import Candidate


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "why-not",
        "say what keeps a backend from serving a layer",
        "Only this backend's kernels, with every clause that fails, or why it is out of the\n"
        "order or behind. Exit code 0: it is selected; 1: it is not.",
        "moe-rules why-not FLASHINFER_TRTLLM --model config.json --machine h100",
    )
    add_backend(parser)
    add_deployment(parser)
    add_format(parser, "text", "json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain one backend for every kind of layer."""
    asked = deployment.ask(args)
    answers = [_answer(asked, question, args.backend) for question in asked.questions]
    if args.format == "json":
        print_json(answers)
    else:
        print("\n".join(_text(answer) for answer in answers))
    return int(not all(answer["selected"] for answer in answers))


def _answer(asked: Asked, question: Question, word: str) -> dict[str, Any]:
    from moe_rules.analysis.nearest import in_words, least_changes
    from moe_rules.cli.commands.select import no_oracle, range_lines
    from moe_rules.cli.render import answer, failure_lines

    about = {"subject": asked.subject(question), "layers": list(question.layers)}
    if question.oracle is None:
        return {**about, "selected": False, "why": [no_oracle(question)], "candidates": []}
    decision = asked.decide(question)
    name = backend_name(decision, word)
    candidates = decision.explain_backend(name)
    ways = [] if decision.backend == name else least_changes(decision, name)
    return {
        **about,
        "oracle": decision.oracle,
        "backend": name,
        "selected": decision.backend == name,
        "instead": None if decision.backend == name else answer(decision),
        "why": [*_why(decision, name, candidates), *range_lines(asked, question)],
        "nearest": in_words(ways),
        "candidates": [
            {**c.to_dict(), "place": c.location.short, "lines": failure_lines(c.failures)}
            for c in candidates
        ],
    }


def backend_name(decision: Decision, word: str) -> str:
    """The declared backend that ``word`` means; case and "-" do not matter. Raises UserError."""
    from moe_rules.cli.render import listed
    from moe_rules.vocabulary.fact_values import did_you_mean

    declared = list(decision.declared_backends)
    name = word.upper().replace("-", "_")
    withdrawn = decision.withdrawn.get(name)
    if withdrawn is not None:
        raise UserError(
            f"oracle {decision.oracle!r} on {decision.platform} has no backend {name!r} here: "
            f"{withdrawn.text} ({withdrawn.location})"
        )
    if name not in declared:
        using = [
            backend
            for backend, one in decision.declared_backends.items()
            if any(word in (choice.kernel.name, choice.kernel.class_name) for choice in one.choices)
        ]
        hint = f", but a kernel of {listed(using)}" if using else did_you_mean(word, declared)
        raise UserError(
            f"oracle {decision.oracle!r} on {decision.platform} has no backend {word!r}"
            f"{hint} (known: {', '.join(declared)})"
        )
    return name


def _why(decision: Decision, name: str, candidates: tuple[Candidate, ...]) -> list[str]:
    """Sentences about the backend's place in the order, besides its kernels' own failures."""
    from moe_rules.engine.because import adjustment_in_words, because
    from moe_rules.engine.report import withdrawn_kernels

    if decision.backend == name:
        text, place = because(decision)
        return [f"{text}  ({place.short})"]
    lines = [
        f"taken out of the order at {removed.location.short}"
        f"{f': {removed.because}' if removed.because else ''}"
        for removed in decision.removed
        if removed.backend == name
    ]
    if name not in decision.priority:
        lines.append("it is not in the priority list: it serves only if asked for, or by a step")
    elif name not in decision.order and not lines:
        lines.append("it is not of the variant that this deployment asks for")
    backend = decision.declared_backends[name]
    lines += withdrawn_kernels(backend)
    if not candidates and backend.choices:
        lines.append("none of its kernels is offered for this deployment")
    elif any(not candidate.failures for candidate in candidates):
        lines.append(f"it could serve this layer, but {_rival(decision, name)}")
        lines += [
            f"{adjustment_in_words(change)}: {change.reason.text}  ({change.reason.location.short})"
            for change in decision.adjustments
            if {name, decision.backend} & {*change.names}
        ]
    return lines


def _rival(decision: Decision, name: str) -> str:
    if decision.failed:
        return "it was not asked: the selection ended before"
    if name in decision.order and decision.how == "auto":
        return f"{decision.backend} stands ahead of it in the order and serves as well"
    return f"{decision.backend} was selected ({decision.how})"


def _text(answer: dict[str, Any]) -> str:
    lines = [f"{answer['subject']}:"]
    if answer["selected"]:
        lines.append(f"  {answer['backend']} is selected")
    elif "backend" in answer:
        lines.append(f"  {answer['backend']} is not selected; {answer['instead']}")
    lines += [f"  {line}" for line in answer["why"]]
    for candidate in answer["candidates"]:
        lines.append(f"  {candidate['kernel']}: {candidate['verdict']}  ({candidate['place']})")
        lines += [f"    {line}" for line in candidate["lines"]]
        if candidate["unknown"]:
            lines.append(f"    unknown: {', '.join(candidate['unknown'])}")
    if answer.get("nearest"):
        lines.append(f"  selected with {' | '.join(answer['nearest'])}")
    return "\n".join(lines)
