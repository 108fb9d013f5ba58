"""``moe-rules explain``: the whole trace of a decision."""

from __future__ import annotations

import argparse

from moe_rules.cli import deployment
from moe_rules.cli.commands.select import as_json, exit_code, no_oracle, range_lines
from moe_rules.cli.options import Subparsers, add_deployment, add_format, command


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "explain",
        "show the whole trace of a decision",
        "The facts that mattered, the order of backends with what moved it, and for every\n"
        "kernel all the clauses that failed: reason code, value seen, value wanted, file:line.\n"
        "Exit code as of select.",
        "moe-rules explain --model config.json --machine b200 --moe-backend triton",
    )
    add_deployment(parser)
    add_format(parser, "text", "json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decide and print everything."""
    asked = deployment.ask(args)
    decisions = [(q, None if q.oracle is None else asked.decide(q)) for q in asked.questions]
    if args.format == "json":
        print(as_json(asked, decisions))
        return exit_code(decisions)
    from moe_rules.analysis.nearest import least_changes, to_be_served
    from moe_rules.cli.render import console
    from moe_rules.cli.trace import print_trace

    out = console()
    for question, decision in decisions:
        if decision is None:
            out.print(f"{asked.subject(question)}: {no_oracle(question)}")
        else:
            refusals = question.load_refusals(decision)
            subject, notes = (
                asked.subject(question),
                [*question.notes, *range_lines(asked, question)],
            )
            nearest = []
            if decision.failed:
                nearest = to_be_served(least_changes(decision), decision.platform)
            print_trace(out, subject, asked.machine, notes, decision, refusals, nearest)
    return exit_code(decisions)
