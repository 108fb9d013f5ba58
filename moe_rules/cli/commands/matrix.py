"""``moe-rules matrix``: what every platform takes for a model in every checkpoint format."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moe_rules.cli import deployment
from moe_rules.cli.errors import UserError
from moe_rules.cli.options import Subparsers, add_format, add_rules, command

if TYPE_CHECKING:
    from moe_rules.cli.matrix import Cell
    from moe_rules.cli.stated import Stated
    from moe_rules.machines.machine import Machine
    from moe_rules.models.tables import Tables
    from moe_rules.selectors.selector import Selector

PLATFORMS = ("a100", "l40s", "h100", "b200", "rtx5090", "mi300x", "mi350x", "xpu", "x86-amx", "arm")
"""Machines that are compared if none is named."""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = command(
        subparsers,
        "matrix",
        "compare platforms and checkpoint formats for a model",
        "What each machine takes for the model's MoE layers in each checkpoint format, whatever\n"
        "the format of the checkpoint itself: backend and kernel, or that nothing serves, no\n"
        "oracle is asked, or vLLM refuses the checkpoint there.",
        "moe-rules matrix --model config.json --platform h100 --platform mi300x --tp 8",
    )
    parser.add_argument(
        "--platform",
        action="append",
        metavar="NAME_OR_FILE",
        help=f"a machine; repeatable; default: {', '.join(PLATFORMS)}",
    )
    parser.add_argument(
        "--scheme", action="append", metavar="NAME", help="a checkpoint format; repeatable"
    )
    deployment.add_software(parser)
    add_rules(parser)
    deployment.add_model(parser, required=True)
    deployment.add_stated(parser)
    add_format(parser, "text", "markdown", "json", "html")
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
    names = list(dict.fromkeys(args.platform or PLATFORMS))
    machines = {name: deployment.machine_of(name, args.software, stated) for name in names}
    selectors = {
        name: Selector(load_platform(machine.device, overlays), machine.facts())
        for name, machine in machines.items()
    }
    for selector in selectors.values():
        stated.refuse_withdrawn(selector.rules)
    schemes = _schemes(args.scheme)
    cells = [
        _cell(args, stated, config, scheme, name, machines[name], selector, tables)
        for scheme, block in schemes.items()
        for config in [_in_scheme(model.config, block)]
        for name, selector in selectors.items()
    ]
    title = f"{model.name}{deployment.parallelism_in_words(args)}"
    matrix = Matrix(title, tuple(names), tuple(schemes), tuple(cells))
    print(FORMATS[args.format](matrix))
    return 0


def _schemes(names: list[str] | None) -> dict[str, dict[str, Any] | None]:
    from moe_rules.cli.schemes import SCHEMES
    from moe_rules.vocabulary.fact_values import did_you_mean

    for name in names or ():
        if name not in SCHEMES:
            raise UserError(
                f"--scheme {name}: there is no such checkpoint format"
                f"{did_you_mean(name, SCHEMES)} (known: {', '.join(SCHEMES)})"
            )
    return {name: SCHEMES[name] for name in names or SCHEMES}


def _in_scheme(config: Mapping[str, Any], block: Mapping[str, Any] | None) -> dict[str, Any]:
    """The model's configuration as a checkpoint in another format would have it."""
    own = ("quantization_config", "compression_config")

    def without(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: without(value) if isinstance(value, Mapping) else value
            for name, value in fields.items()
            if name not in own
        }

    return {**without(config), **({} if block is None else {"quantization_config": block})}


def _cell(
    args: argparse.Namespace,
    stated: Stated,
    config: Mapping[str, Any],
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
        questions = deployment.questions_of(args, machine, stated, config, None, tables=tables)
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
    why = f"{text} ({place.short})" if place else text
    why = "; ".join([why, *map(will_not_load, question.load_refusals(decision))])
    answer = (decision.oracle, decision.backend, decision.kernel, decision.how)
    return Cell(scheme, name, "selected", *answer, why)
