"""Option parsing that commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from moe_rules.cli.errors import UserError
from moe_rules.vocabulary.fact_values import integer
from moe_rules.vocabulary.layer import REQUIRED_FACTS

if TYPE_CHECKING:
    from moe_rules.reporting import Report

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Options: TypeAlias = "argparse._ActionsContainer"
"""A parser, or a group of options of one."""


def command(
    subparsers: Subparsers, name: str, about: str, details: str, example: str
) -> argparse.ArgumentParser:
    """A command's parser with a help text of one shape: what it does, details, an example."""
    return subparsers.add_parser(
        name,
        help=about,
        description=f"{about[:1].upper()}{about[1:]}.\n\n{details}",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_format(parser: argparse.ArgumentParser, *formats: str) -> None:
    """``--format`` with the first format as the default."""
    parser.add_argument(
        "--format", choices=formats, default=formats[0], help=f"default: {formats[0]}"
    )


def add_release(parser: Options) -> None:
    """``--release``: an older release of the reference."""
    parser.add_argument(
        "--release",
        metavar="NAME",
        help="a release of vLLM (moe-rules list releases); default: the latest that is known",
    )


def add_rules(parser: Options) -> None:
    """``--release``, and ``--rules``: overlays."""
    add_release(parser)
    parser.add_argument(
        "--rules",
        action="append",
        default=[],
        metavar="DIR",
        help="overlay: a folder or file of rules, or the name of a packaged one; repeatable, "
        "after those of MOE_RULES_PATH",
    )


def add_machine(parser: Options, default: str = "", *, several: bool = False) -> None:
    """``--machine``: by name or file; ``several``: it may be given repeatedly."""
    parser.add_argument(
        "--machine",
        metavar="NAME_OR_FILE",
        action="append" if several else "store",
        help="a named machine (moe-rules list machines) or a recorded file"
        + ("; repeatable" if several else "")
        + (f"; default: {default}" if default else ""),
    )


def add_platform(parser: Options, *, several: bool = False) -> None:
    """``--platform``: a kind of device; ``several``: it may be given repeatedly."""
    parser.add_argument(
        "--platform",
        metavar="KIND",
        action="append" if several else "store",
        help="a kind of device (cuda, rocm, ...)" + ("; repeatable" if several else ""),
    )


def add_narrowing(parser: Options) -> None:
    """``--platform``, ``--machine`` and ``--oracle``: what alone is asked about."""
    add_platform(parser, several=True)
    add_machine(parser, several=True)
    parser.add_argument("--oracle", action="append", metavar="NAME", help="an oracle; repeatable")


def add_deployment(parser: argparse.ArgumentParser, *, scheme: bool = True) -> None:
    """Options that say what is asked about; ``scheme``: --scheme is that of a model."""
    machine = parser.add_argument_group("machine and rules")
    add_machine(machine, "this machine")
    add_software(machine)
    add_rules(machine)
    model = parser.add_argument_group("model and deployment")
    add_model(model)
    add_quantization(model)
    if scheme:
        model.add_argument(
            "--scheme",
            dest="model_scheme",
            metavar="NAME",
            help="the model as a checkpoint in this format, whatever its own (those of matrix)",
        )
    layer = parser.add_argument_group("layer")
    layer.add_argument("--oracle", help="ask this oracle, whatever the model says")
    layer.add_argument("--weight", metavar="KEY", help="quantization key of the weights, or none")
    layer.add_argument(
        "--activation-key", metavar="KEY", help="quantization key of the activations, or none"
    )
    add_stated(layer)


def add_software(parser: Options) -> None:
    """``--software``: a preset."""
    parser.add_argument(
        "--software",
        metavar="PRESET",
        help="take the software of a preset: full (all a vLLM installation may have), bare",
    )


def add_quantization(parser: Options) -> None:
    """How vLLM is asked to quantize a model."""
    parser.add_argument(
        "--quantization", metavar="METHOD", help="vLLM's --quantization, with --model"
    )
    parser.add_argument(
        "--quantization-config",
        metavar="JSON",
        type=json_mapping,
        help="vLLM's --quantization-config: linear, moe, ignore, targets as JSON; with --model",
    )


def add_model(parser: Options, *, required: bool = False, several: bool = False) -> None:
    """``--model`` and how it is deployed; ``several``: it may be given repeatedly."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        required=required,
        action="append" if several else "store",
        help="config.json, the folder it is in, or ORG/NAME in the Hugging Face cache"
        + ("; repeatable" if several else ""),
    )
    parser.add_argument(
        "--layer",
        type=int,
        metavar="INDEX",
        help="the decoder layer asked about, where a model has several kinds of MoE layers",
    )
    for name, about in (
        ("tp", "tensor-parallel size"),
        ("pcp", "prefill-context-parallel size"),
        ("dp", "data-parallel size"),
    ):
        parser.add_argument(f"--{name}", type=positive, default=1, metavar="N", help=about)
    parser.add_argument(
        "--sp", type=positive, metavar="N", help="sequence-parallel size; a model's if absent"
    )
    parser.add_argument("--ep", action="store_true", help="expert parallelism over all ranks")
    parser.add_argument("--all2all", metavar="BACKEND", help="exchange of tokens between ranks")
    parser.add_argument("--eplb", action="store_true", help="expert load balancing")


def add_stated(parser: Options) -> None:
    """Facts that are stated, whatever model and machine say."""
    parser.add_argument("--moe-backend", metavar="NAME", help='a backend by name; default: "auto"')
    add_set(parser)


def add_set(parser: Options) -> None:
    """``--set``: facts by name."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FACT=VALUE",
        help="state a fact (moe-rules facts lists them), whatever model and machine say; "
        f"repeatable; without --model at least {', '.join(REQUIRED_FACTS)}",
    )


def add_exit_zero(parser: Options, where: str) -> None:
    """``--exit-zero``: exit code 0 ``where`` what is compared differs, in words."""
    parser.add_argument("--exit-zero", action="store_true", help=f"exit with 0 where {where}")


def add_show(parser: Options) -> None:
    """``--show``: how many regions are written."""
    parser.add_argument(
        "--show",
        type=count,
        default=20,
        metavar="N",
        help="regions in text and markdown, of each kind; default: 20",
    )


def add_report(parser: argparse.ArgumentParser, paths: str) -> None:
    """What commands take that report problems of files: the files (``paths``), and a format."""
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        type=Path,
        help=f"{paths}; default: the packaged rules",
    )
    add_format(parser, "text", "json", "github", "sarif", "junit")


def add_warnings_as_errors(parser: Options) -> None:
    """``--warnings-as-errors``, which :func:`print_report` reads."""
    parser.add_argument(
        "--warnings-as-errors", action="store_true", help="exit with 1 for warnings as well"
    )


CANNOT_RUN = 2
"""The exit code of a command that ends before it can answer."""


def print_report(args: argparse.Namespace, report: Report) -> int:
    """Print a report in the format asked for. Returns the exit code: 1 where there are errors."""
    from moe_rules.reporting import REPORTERS

    print(REPORTERS[args.format].report(report))
    strict = getattr(args, "warnings_as_errors", False)
    return int(len(report.problems) > 0 if strict else report.count("error") > 0)


def run_report(args: argparse.Namespace, make: Callable[[], Report]) -> int:
    """Make a report and print it. Returns the exit code.

    Rules that cannot be used end a command; formats for programs have what is wrong with them.
    """
    from moe_rules.files.problems import RuleFileError
    from moe_rules.reporting import REPORTERS, Report

    try:
        return print_report(args, make())
    except RuleFileError as error:
        if args.format == "text":
            raise
        wrong = Report.of(error.problems, (), command=args.command)
        print(REPORTERS[args.format].report(wrong))
        return CANNOT_RUN


def add_backend(parser: Options) -> None:
    """``BACKEND``: the one that is asked about."""
    parser.add_argument("backend", metavar="BACKEND", help="name as moe-rules list backends has it")


def print_json(answers: Sequence[Any]) -> None:
    """Print answers about kinds of layers as JSON: one by itself, several as a list."""
    print(json.dumps(answers if len(answers) > 1 else answers[0], indent=2))


def refuse_others(
    parser: argparse.ArgumentParser, args: argparse.Namespace, option: str, *taken: str
) -> None:
    """Raise UserError where options are given that ``option`` has no use for: all but ``taken``."""
    others = [
        action.option_strings[-1]
        for action in parser._actions
        if action.option_strings
        and action.option_strings[-1] not in (option, *taken)
        and getattr(args, action.dest, action.default) != action.default
    ]
    if others:
        raise UserError(
            f"{option} takes {' and '.join(taken)} alone, and has no use for {', '.join(others)}"
        )


def json_mapping(text: str) -> dict[str, Any]:
    """A mapping written as JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def positive(text: str) -> int:
    """A whole number from 1 up."""
    number = integer(text)
    if number is None or number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return number


def count(text: str) -> int:
    """A whole number from 0 up."""
    number = integer(text)
    if number is None or number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return number
