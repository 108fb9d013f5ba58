"""``moe-rules tune``: measures a layer's tilings and kernels here, and writes tables and rules."""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moe_rules.cli.errors import UserError
from moe_rules.cli.options import Subparsers, add_deployment, command, refuse_others

if TYPE_CHECKING:
    from moe_kernels.benchmark.tune.layers import TuneLayer
    from moe_kernels.benchmark.tune.measurer import Measurer
    from moe_kernels.benchmark.tune.record import Record

    from moe_rules.cli.deployment import Asked
    from moe_rules.cli.tuning import TunedQuestion

RULES = "rules"
"""Where a run's folder has its overlay."""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the command."""
    from moe_kernels.benchmark.shapes import SCHEMES, SHAPES
    from moe_kernels.benchmark.tune.options import add_options

    parser = command(
        subparsers,
        "tune",
        "measure tilings and kernels on this machine, and write tables and rules",
        "Searches the fastest tilings of a layer's GEMMs on a GPU, and times every kernel of this\n"
        "package that the rules let serve the layer. Writes DIR/configs, which kernels take from\n"
        "MOE_RULES_TUNED_CONFIGS, and DIR/rules, an overlay, where the measured order of backends\n"
        "differs from that of the rules. Needs torch. Exit code 1: nothing can be measured here.",
        "moe-rules tune --model config.json --tp 4 --seconds 120 --out tuned",
    )
    add_deployment(parser, scheme=False)
    shapes = parser.add_argument_group("named layers, instead of a model")
    shapes.add_argument(
        "--shape", nargs="+", choices=SHAPES, metavar="NAME", help=", ".join(SHAPES)
    )
    shapes.add_argument(
        "--scheme",
        nargs="+",
        choices=SCHEMES,
        metavar="NAME",
        help=f"{', '.join(SCHEMES)}; default: bf16",
    )
    tuning = parser.add_argument_group("tuning")
    tuning.add_argument(
        "--device", choices=("cpu", "cuda"), help="where to measure; default: as the platform says"
    )
    add_options(tuning)
    tuning.add_argument(
        "--from",
        nargs="+",
        type=Path,
        dest="results",
        metavar="DIR",
        help="measure nothing: write the rules from what moe-rules bench put into DIR",
    )
    parser.set_defaults(run=functools.partial(run, parser))


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Ask, measure, write."""
    if args.results:
        refuse_others(parser, args, "--from", "--out")
        return _from_benchmark(args.results, args.out)
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError("tuning needs torch: pip install 'moe-rules[kernels]'", 1) from None
    from moe_kernels.benchmark.tune.record import Record, RecordError
    from moe_kernels.benchmark.tune.session import CONFIGS, RECORD, command_of, tune
    from moe_kernels.tiling.tuned_configs import TunedConfigError

    from moe_rules.cli.tuning import TuningProgress, ask, tuned_questions

    progress = TuningProgress()
    everything = []
    for asked in ask(args):
        questions, notes = tuned_questions(asked)
        everything.append((asked, questions))
        for note in dict.fromkeys(notes):
            progress.note(note)
    if not everything:
        raise UserError("none of the schemes takes one of the shapes", 1)
    layers = [question.layer for _, questions in everything for question in questions]
    device = args.device or everything[0][0].machine.device
    try:
        measurer = _measurer(args, "cpu" if device == "cpu" else "cuda", layers)
        record = Record.open(args.out / RECORD, measurer.facts, args.resume)
        with progress:
            lacking = tune(layers, args.tokens, measurer, record, args.seconds, progress)
        command = command_of("moe-rules", sys.argv[1:])
        written = record.write_tables(args.out / CONFIGS, command)
    except (RecordError, TunedConfigError) as error:
        raise UserError(str(error)) from None
    if not record.measured:
        raise UserError("nothing was measured", 1)
    rules = [_write_overlay(asked, questions, record, args.out) for asked, questions in everything]
    print("\n".join(_summary(layers, record, lacking, [*written, *filter(None, rules)])))
    if written:
        print(f"kernels take the tilings with MOE_RULES_TUNED_CONFIGS={args.out / CONFIGS}")
    if any(rules):
        print(f"the rules hold with --rules {args.out / RULES}, or in MOE_RULES_PATH")
    return 0


def _from_benchmark(folders: Sequence[Path], out: Path) -> int:
    """Write an overlay for each device that was measured.

    Raises UserError where no two backends were, and leaves the rules of an earlier run then.
    """
    from moe_rules.cli.benchmarked import measured_layers
    from moe_rules.cli.measured_rules import MeasuredLayer, write_overlay

    by_file: dict[Path, list[MeasuredLayer]] = {}
    for folder in folders:
        for layer in measured_layers(folder):
            device = layer.facts["device"].lower().replace(" ", "-")
            path = out / RULES / f"{layer.decision.platform}-{device}.yaml"
            by_file.setdefault(path, []).append(layer)
    everything = itertools.chain.from_iterable(by_file.values())
    if not any(len(times) > 1 for layer in everything for times in layer.by_tokens.values()):
        raise UserError(
            f"nothing to order in {', '.join(map(str, folders))}: no layer has times of two "
            "backends' kernels, which are measured as peers (moe-rules bench --peers)",
            1,
        )
    for path, layers in by_file.items():
        written = write_overlay(path, layers, "moe-rules bench, written by moe-rules tune --from")
        print(f"wrote {path}" if written else f"{path}: the measured order is that of the rules")
    return 0


def _measurer(args: argparse.Namespace, device: str, layers: Sequence[TuneLayer]) -> Measurer:
    """What measures on ``device``. Raises UserError (exit code 1) where it has nothing to do."""
    from moe_kernels.benchmark.tune.measurer import DeviceError

    if device == "cpu":
        from moe_kernels.benchmark.tune.cpu import CpuMeasurer

        if not any(len(layer.contenders) > 1 for layer in layers):
            only = ", ".join({c.kernel: None for layer in layers for c in layer.contenders})
            raise UserError(
                f"on the CPU kernels are compared, and here is only one to measure, {only}; "
                "tilings are searched on GPUs",
                1,
            )
        return CpuMeasurer(args.routing, args.seed)
    try:
        from moe_kernels.benchmark.tune.gpu import GpuMeasurer

        return GpuMeasurer(args.routing, args.seed, args.workers)
    except ImportError as error:
        raise UserError(f"tilings are searched with Triton: {error}", 1) from None
    except DeviceError as error:
        raise UserError(f"{error} (--device cpu compares kernels of the CPU)", 1) from None


def _write_overlay(
    asked: Asked, questions: Sequence[TunedQuestion], record: Record, out: Path
) -> Path | None:
    """Write the measured order of backends, if it is another one than that of the rules."""
    from moe_rules.cli.measured_rules import MeasuredLayer, write_overlay

    layers = []
    for tuned in questions:
        measured = record.of(str(tuned.layer)).items()
        by_tokens = {tokens: {m.backend: m.us for m in of.values()} for tokens, of in measured}
        layers.append(MeasuredLayer(tuned.decision, by_tokens, record.facts))
    path = out / RULES / f"{asked.machine.device}-{asked.model or 'layer'}.yaml"
    return path if write_overlay(path, layers, "moe-rules tune") else None


def _summary(
    layers: Sequence[TuneLayer], record: Record, lacking: int, written: Sequence[Path]
) -> Iterator[str]:
    """What was found, layer by layer, and where it is."""
    from moe_kernels.benchmark.tune.session import tiling_in_words

    from moe_rules.cli.render import columns

    for layer in dict.fromkeys(map(str, layers)):
        rows = [("tokens", "backend", "kernel", "us", "")]
        for tokens, by_backend in record.of(layer).items():
            for m in sorted(by_backend.values(), key=lambda m: m.us):
                rows.append((str(tokens), m.backend, m.kernel, f"{m.us:.1f}", tiling_in_words(m)))
        yield f"{layer}\n{columns(rows)}\n"
    if lacking:
        yield f"{lacking} numbers of tokens were left out for lack of time; --resume goes on"
    for path in written:
        yield f"wrote {path}"
