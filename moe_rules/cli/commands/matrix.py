"""``moe-rules matrix``: what every machine takes for a model in every checkpoint format."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from moe_rules.cli import deployment
from moe_rules.cli.options import (
    Subparsers,
    add_format,
    add_machine,
    add_model,
    add_rules,
    add_software,
    add_stated,
    command,
)
from moe_rules.cli.schemes import MACHINES, SCHEMES

if TYPE_CHECKING:
    from moe_rules.cli.matrix import Cell
    from moe_rules.cli.model_files import ModelFiles
    from moe_rules.cli.stated import Stated
    from moe_rules.machines.machine import Machine
    from moe_rules.models.tables import Tables
    from moe_rules.selectors.selector import Selector


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "matrix",
        "compare machines and checkpoint formats for a model",
        "What each machine takes for the model's MoE layers in each checkpoint format, whatever\n"
        "the format of the checkpoint itself: backend and kernel, or that nothing serves, no\n"
        "oracle is asked, or vLLM refuses the checkpoint there.",
        "moe-rules matrix --model config.json --machine h100 --machine mi300x --tp 8",
    )
    add_machine(parser, ", ".join(MACHINES), several=True)
    parser.add_argument(
        "--scheme", action="append", metavar="NAME", help="a checkpoint format; repeatable"
    )
    add_software(parser)
    add_rules(parser)
    add_model(parser, required=True)
    add_stated(parser)
    add_format(parser, "text", "markdown", "json")
    parser.set_defaults(run=run, oracle=None, weight=None, activation_key=None, quantization=None)


def run(args: argparse.Namespace) -> int:
    """Decide every cell and print."""
    from moe_rules.cli.matrix import FORMATS, Matrix
    from moe_rules.cli.model_files import read_model
    from moe_rules.cli.stated import Stated
    from moe_rules.language.ruleset import load_platform, overlay_paths
    from moe_rules.models.tables import load_tables
    from moe_rules.selectors.selector import Selector

    overlays = overlay_paths(args.rules, args.release)
    tables = load_tables(overlays=overlays)
    model = read_model(args.model, tables)
    stated = Stated.read(args)
    names = list(dict.fromkeys(args.machine or MACHINES))
    machines = {name: deployment.machine_of(name, args.software, stated) for name in names}
    selectors = {
        name: Selector(load_platform(machine.device, overlays), machine.facts())
        for name, machine in machines.items()
    }
    for selector in selectors.values():
        stated.refuse_withdrawn(selector.rules)
    schemes = {name: model.in_scheme(name) for name in args.scheme or SCHEMES}
    cells = [
        _cell(args, stated, in_scheme, scheme, name, machines[name], selector, tables)
        for scheme, in_scheme in schemes.items()
        for name, selector in selectors.items()
    ]
    title = f"{model.name}{deployment.parallelism_in_words(args)}"
    matrix = Matrix(title, tuple(names), tuple(schemes), tuple(cells))
    print(FORMATS[args.format](matrix))
    return 0


def _cell(
    args: argparse.Namespace,
    stated: Stated,
    model: ModelFiles,
    scheme: str,
    name: str,
    machine: Machine,
    selector: Selector,
    tables: Tables,
) -> Cell:
    from moe_rules.cli.matrix import Cell
    from moe_rules.cli.render import will_not_load
    from moe_rules.engine.because import because
    from moe_rules.models.errors import CheckpointRefusedError

    def without_answer(outcome: str, why: str, oracle: str | None = None) -> Cell:
        return Cell(scheme, name, outcome, oracle, None, None, None, why)

    try:
        questions = deployment.questions_of(args, machine.facts(), stated, model, tables=tables)
        # Several kinds of layers differ in what no checkpoint format changes; the first stands.
        question = questions[0]
    except CheckpointRefusedError as error:
        return without_answer("refused", str(error))
    if question.oracle is None:
        return without_answer("no_oracle", "; ".join(question.notes))
    decision = selector.decide(question.oracle, question.facts)
    if decision.failed:
        return without_answer("none", str(decision.error), decision.oracle)
    text, place = because(decision)
    why = "; ".join(
        [f"{text} ({place.short})", *map(will_not_load, question.load_refusals(decision))]
    )
    answer = (decision.oracle, decision.backend, decision.kernel, decision.how)
    return Cell(scheme, name, "selected", *answer, why)
