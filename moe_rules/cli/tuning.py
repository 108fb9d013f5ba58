"""The layers that ``tune`` measures, with the kernels that the rules let serve them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe_rules.cli import deployment
from moe_rules.cli.benchmarked import ORACLES, serving
from moe_rules.cli.errors import UserError
from moe_rules.cli.render import console

if TYPE_CHECKING:
    from moe_kernels.benchmark.tune.layers import Contender, TuneLayer
    from rich.progress import TaskID

    from moe_rules.cli.deployment import Asked, Question
    from moe_rules.engine.decision import Decision
    from moe_rules.engine.explanation import Candidate


@dataclass(frozen=True)
class TunedQuestion:
    """A question, its decision without what was measured, and the layer that is tuned for it."""

    question: Question
    decision: Decision
    layer: TuneLayer


def ask(args: argparse.Namespace) -> Iterator[Asked]:
    """What the options ask: a model, a layer stated fact by fact, or one for each named shape.

    Raises UserError for options that exclude each other, and as :func:`deployment.ask`.
    """
    if not args.shape:
        if args.scheme:
            raise UserError("--scheme goes with --shape")
        yield deployment.ask(args)
        return
    for name in ("model", "oracle", "weight", "activation_key", "quantization"):
        if getattr(args, name) is not None:
            raise UserError(f"--shape and --{name.replace('_', '-')} exclude each other")
    from moe_kernels.benchmark.shapes import SCHEMES, SHAPES

    from moe_rules.vocabulary.fact_values import in_words

    for scheme_name in args.scheme or ["bf16"]:
        for shape_name in args.shape:
            shape, scheme = SHAPES[shape_name], SCHEMES[scheme_name]
            if not scheme.takes(shape):
                continue
            facts = {
                "num_experts": shape.experts,
                "experts_per_token": shape.topk,
                "hidden_dim": shape.hidden,
                "intermediate_size": shape.intermediate,
                "activation": shape.activation,
                "has_bias": shape.bias,
                "in_dtype": scheme.in_dtype,
                "ep_size": shape.ep_size,
                "use_ep": shape.ep_size > 1,
            }
            if scheme.group_size is not None:
                facts["group_size"] = scheme.group_size
            stated = argparse.Namespace(**vars(args))
            stated.oracle = ORACLES[scheme_name]
            stated.weight = scheme.weight_key and str(scheme.weight_key)
            stated.activation_key = scheme.activation_key and str(scheme.activation_key)
            stated.set = [
                *(f"{fact}={in_words(value)}" for fact, value in facts.items()),
                *args.set,
            ]
            yield deployment.ask(stated).replaced(model=f"{shape_name}-{scheme_name}")


def tuned_questions(asked: Asked) -> tuple[list[TunedQuestion], list[str]]:
    """The questions whose layers have a kernel to tune, and notes on what is left out.

    Raises UserError (exit code 1) if there is none.
    """
    from moe_kernels.benchmark.tune.layers import TuneLayer

    found, notes = [], []
    for question in asked.questions:
        if question.oracle is None:
            notes.append(f"no oracle is asked: {'; '.join(question.notes)}")
            continue
        decision = asked.decide(question)
        contenders = []
        for candidate in serving(decision):
            contender = _contender(decision, candidate)
            reason = _missing(contender)
            if reason is None:
                contenders.append(contender)
            else:
                notes.append(f"{contender.backend} is not measured: {reason}")
        if decision.failed:
            notes.append(str(decision.error))
        elif contenders:
            layer = TuneLayer(question.moe, tuple(contenders))
            found.append(TunedQuestion(question, decision, layer))
    if not found:
        reasons = "\n  ".join(dict.fromkeys(notes))
        raise UserError(f"{asked.model or 'the layer'} has no kernel to tune here\n  {reasons}", 1)
    return found, notes


def _contender(decision: Decision, candidate: Candidate) -> Contender:
    from moe_kernels.benchmark.tune.layers import Contender

    from moe_rules.engine.plan import with_assumed
    from moe_rules.vocabulary.quant_keys import QuantKey

    assumed = decision.declared_backends[candidate.backend].assume
    facts = with_assumed(decision.facts, assumed)
    keys = [facts[name] for name in ("weight_key", "activation_key")]
    weight_key, activation_key = (key if isinstance(key, QuantKey) else None for key in keys)
    group_size = facts.get("group_size")
    return Contender(
        candidate.backend,
        candidate.kernel,
        weight_key,
        activation_key,
        decision.oracle,
        group_size if isinstance(group_size, int) and group_size > 0 else None,
    )


def _missing(contender: Contender) -> str | None:
    """Why a contender cannot be had as a kernel of ours."""
    from moe_kernels.registry import Unavailable, available, our_names

    if contender.kernel not in our_names():
        return f"{contender.kernel} is not a kernel of this package"
    found = available(contender.kernel, provider="moe_kernels", oracle=contender.oracle)
    return found.reason if isinstance(found, Unavailable) else None


class TuningProgress:
    """Progress of a run on standard error: a bar on a terminal, and what was found as lines.

    See :class:`moe_kernels.benchmark.tune.measurer.Progress`.
    """

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = console(sys.stderr)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> TuningProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, what: str, total: int) -> None:
        """Begin a bar in place of the one before."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=total)

    def step(self, said: str) -> None:
        """Move the bar, and print what came of the step."""
        assert self._task is not None
        self._bar.advance(self._task)
        if said:
            self.note(said)

    def note(self, said: str) -> None:
        """Print above the bar."""
        self._console.print(said, markup=False)
