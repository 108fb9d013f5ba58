"""``moe-rules bench``: measures kernels on whole MoE layers on this machine's GPU."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from moe_rules.cli import deployment
from moe_rules.cli.benchmarked import measured_plan, picks, read_results, scheme_of, shape_of
from moe_rules.cli.errors import UserError
from moe_rules.cli.options import Subparsers, add_model, command, refuse_others

if TYPE_CHECKING:
    from moe_kernels.benchmark.plan import Plan


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    from moe_kernels.benchmark.plan import add_options

    parser = command(
        subparsers,
        "bench",
        "measure kernels on whole MoE layers, against the floor and other kernels",
        "Checks every kernel against a float32 reference, then times it as a CUDA graph over\n"
        "rotated inputs. Writes DIR/layers.{md,csv,json} and a plot per shape. Needs torch and a\n"
        "CUDA GPU. --compile first compiles everything in parallel. Tables say which kernel vLLM\n"
        "picks, and how ours compares with that one where it is a peer; --report adds that to\n"
        "those of python -m moe_kernels.benchmark.",
        "moe-rules bench --shape qwen3-30b-a3b --scheme bf16 fp8_block --routing uniform",
    )
    options = parser.add_argument_group("benchmark")
    add_options(options)
    options.add_argument(
        "--report", action="store_true", help="measure nothing: write the tables in DIR anew"
    )
    model = parser.add_argument_group("a model's layer, instead of named shapes and schemes")
    add_model(model)
    model.add_argument(
        "--quantization", metavar="METHOD", help="vLLM's --quantization, with --model"
    )
    parser.set_defaults(
        run=partial(run, parser),
        machine=None,
        software=None,
        rules=[],
        release=None,
        set=[],
        oracle=None,
        weight=None,
        activation_key=None,
        moe_backend=None,
    )


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Plan, measure, report."""
    if args.report:
        refuse_others(parser, args, "--report", "--out")
        return _report(args.out)
    plan = _plan_of(args)
    if args.dry_run:
        print("\n".join(plan.lines()))
        return 0
    try:
        import torch  # noqa: F401
        import triton  # noqa: F401
    except ImportError as error:
        raise UserError(f"bench needs {error.name}: pip install 'moe-rules[kernels]'") from None
    from moe_kernels.benchmark.runner import BenchmarkError
    from moe_kernels.benchmark.runner import run as measure

    try:
        measure(plan, args, partial(picks, plan))
    except BenchmarkError as error:
        raise UserError(str(error)) from None
    return 0


def _report(folder: Path) -> int:
    """Write the tables of an earlier run. Raises UserError for a folder without one."""
    results = read_results(folder)
    named = picks(measured_plan(results), results.run["device"])
    own = {(pick.scheme, pick.shape): pick for pick in [*results.picks, *named]}
    results.picks = list(own.values())
    results.write(folder)
    print((folder / "layers.md").read_text(), end="")
    return 0


def _plan_of(args: argparse.Namespace) -> Plan:
    """What the options ask. Raises UserError, or an error of the libraries for wrong input."""
    from moe_kernels.benchmark.plan import plan_of

    plan = plan_of(args)
    if args.model is None:
        return plan
    for name in ("shape", "scheme"):
        if getattr(args, name) is not None:
            raise UserError(f"--model and --{name} exclude each other")
    asked = deployment.ask(args)
    question = asked.questions[0]
    if question.oracle is None:
        raise UserError(f"{asked.model}: no oracle is asked: {'; '.join(question.notes)}")
    scheme_name, scheme = scheme_of(asked.decide(question).kernel_facts, question.moe.in_dtype)
    shape = shape_of(question)
    if not scheme.takes(shape):
        raise UserError(
            f"{asked.model}: groups of {scheme.group_size} do not divide its sizes on a rank, "
            f"{shape.hidden} and {shape.intermediate}"
        )
    return replace(plan, shapes={str(asked.model): shape}, schemes={scheme_name: scheme})
