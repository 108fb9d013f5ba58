"""``moe-rules run``: runs one layer on the kernel that is selected for it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from moe_kernels.ranks.torchrun import add_timeout, number_of_ranks, this_rank

from moe_rules.cli import deployment
from moe_rules.cli.errors import UserError
from moe_rules.cli.execution_over_ranks import execute_over_ranks, spread
from moe_rules.cli.options import Subparsers, add_deployment, add_format, command, positive

if TYPE_CHECKING:
    from moe_rules.vocabulary.layer import FusedMoEParallelConfig


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "run",
        "run one layer on the selected kernel, and compare with the reference",
        "Random weights and tokens. Prints the error against a float64 reference, and the median\n"
        "time. Needs torch. Exit code 1: the kernel cannot be had, or the error is too large.\n"
        "Started by torchrun, with --ep: the layer over its ranks, the error against one rank,\n"
        "the time of each phase, and what the exchange moves, as in\n"
        "torchrun --nproc-per-node 4 -m moe_rules run --model config.json --ep",
        "moe-rules run --model config.json --num-tokens 64",
    )
    add_deployment(parser)
    execution = parser.add_argument_group("execution")
    execution.add_argument(
        "--num-tokens",
        type=positive,
        default=16,
        metavar="N",
        help="of all ranks together; default: 16",
    )
    execution.add_argument(
        "--device", choices=("cpu", "cuda"), help="where to run; default: as the platform says"
    )
    execution.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    execution.add_argument(
        "--max-weights-gb",
        type=float,
        default=1.5,
        metavar="GB",
        help="run with fewer experts if the weights take more 10^9 bytes than this; default: 1.5",
    )
    add_timeout(execution)
    add_format(parser, "text", "json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Select, bind, run, compare."""
    from moe_rules.cli.commands.select import no_oracle
    from moe_rules.cli.execution import GIGABYTE, execute
    from moe_rules.cli.render import decision_lines

    ranks = number_of_ranks()
    if ranks > 1:
        spread(args, ranks)
    asked = deployment.ask(args)
    question = asked.questions[0]
    if question.oracle is None:
        raise UserError(no_oracle(question), 1)
    decision = asked.decide(question)
    if decision.failed:
        raise UserError(str(decision.error), 1)
    options = {
        "num_tokens": args.num_tokens,
        "device": args.device,
        "seed": args.seed,
        "max_weight_bytes": args.max_weights_gb * GIGABYTE,
    }
    execution = (
        execute(decision, question.moe, **options)
        if ranks == 1
        else execute_over_ranks(decision, question.moe, timeout=args.rank_timeout, **options)
    )
    if this_rank() > 0:
        return int(not execution.correct)
    if ranks == 1:
        question = question.with_notes(_alone(args, question.moe.moe_parallel_config))
    if args.format == "json":
        answer = {"decision": decision.to_dict(), "notes": question.notes}
        print(json.dumps({**answer, "run": execution.to_dict()}, indent=2))
    else:
        refusals = question.load_refusals(decision)
        lines = decision_lines(asked.subject(question), decision, question.notes, refusals)
        print("\n".join([*lines, *execution.lines()]))
    return int(not execution.correct)


def _alone(args: argparse.Namespace, parallel: FusedMoEParallelConfig) -> tuple[str, ...]:
    """What to know of a run in one process where the options mean several ranks."""
    ranks = max(parallel.tp_size, parallel.ep_size)
    if ranks > 1:
        return (
            f"one process ran the part of one of {ranks} ranks, and exchanged nothing; "
            f"torchrun --nproc-per-node {ranks} -m moe_rules run ... --ep runs all of them",
        )
    if args.ep:
        return (
            "one process ran the whole layer, for --ep spreads experts over the ranks that "
            "torchrun starts: torchrun --nproc-per-node N -m moe_rules run ... --ep",
        )
    return ()
