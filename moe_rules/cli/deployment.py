"""What a command asks about: a machine, and the layers of a model or one that is stated.

:func:`ask` turns the options of :func:`moe_rules.cli.options.add_deployment` into one
:class:`Question` for each kind of MoE layer.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moe_rules.cli.errors import NoMoELayersError, UserError
from moe_rules.cli.stated import Stated
from moe_rules.vocabulary.layer import REQUIRED_FACTS
from moe_rules.vocabulary.record import Record

if TYPE_CHECKING:
    from moe_rules.cli.model_files import ModelFiles
    from moe_rules.engine.decision import Decision
    from moe_rules.machines.machine import Machine
    from moe_rules.models import Deployment, LoadRefusal, ModelLayer, Tables
    from moe_rules.selectors.ranges import TokenRange
    from moe_rules.selectors.selector import Selector
    from moe_rules.vocabulary.fact_values import FactValue
    from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
    from moe_rules.vocabulary.quant_keys import QuantKey


class Question(Record):
    """One layer to decide. ``oracle`` None: no oracle is asked for it, ``notes`` say why.

    ``loading`` is why vLLM would not load the layer once certain backends are selected.
    """

    oracle: str | None
    moe: FusedMoEConfig
    facts: Mapping[str, FactValue]
    layers: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    loading: tuple[LoadRefusal, ...] = ()

    def load_refusals(self, decision: Decision | None) -> list[str]:
        """Why vLLM would not load the layer with what was decided for it."""
        if decision is not None and decision.failed:
            return []
        backend = None if decision is None else decision.backend
        return [one.reason for one in self.loading if one.concerns(backend)]

    @property
    def weight_key(self) -> QuantKey | None:
        """How the weights are quantized."""
        return self._key("weight_key")

    @property
    def activation_key(self) -> QuantKey | None:
        """How the activations are quantized."""
        return self._key("activation_key")

    def _key(self, name: str) -> QuantKey | None:
        from moe_rules.vocabulary.quant_keys import QuantKey

        key = self.facts[name]
        assert key is None or isinstance(key, QuantKey)
        return key

    def with_notes(self, notes: tuple[str, ...]) -> Question:
        """The question with further notes on its decision, if there will be one."""
        return self if self.oracle is None else self.replaced(notes=(*self.notes, *notes))

    @property
    def layers_in_words(self) -> str:
        """See :func:`layers_in_words`."""
        return layers_in_words(self.layers)


def layers_in_words(layers: Sequence[int]) -> str:
    """Decoder layers as "layers 0, 3-60"; empty where there are none."""
    runs: list[list[int]] = []
    for index in layers:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    words = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"layer{'s' if len(layers) > 1 else ''} {words}" if words else ""


class Asked(Record):
    """Everything a command asks: the machine's selector and the questions."""

    machine: Machine
    selector: Selector
    model: str | None
    questions: tuple[Question, ...]
    parallelism: str = ""

    def decide(self, question: Question) -> Decision:
        """The decision of a question that has an oracle."""
        assert question.oracle is not None
        return self.selector.decide(question.oracle, question.facts)

    def ranges(self, question: Question) -> tuple[TokenRange, ...]:
        """The decisions by number of tokens of a call; one where the rules tell no calls apart."""
        from moe_rules.selectors.ranges import decide_by_num_tokens

        assert question.oracle is not None
        return decide_by_num_tokens(self.selector, question.oracle, question.facts)

    def subject(self, question: Question) -> str:
        """What is asked about, in a few words."""
        what = self.model or f"a layer with {question.moe.num_experts} experts"
        layers = question.layers_in_words
        where = f"on {self.machine.name}{self.parallelism}"
        return f"{what}{f', {layers}' if layers else ''}, {where}"


def ask(args: argparse.Namespace) -> Asked:
    """What the options ask. Raises UserError, or an error of the libraries for wrong input."""
    from moe_rules.language.requested import requests_from_environ
    from moe_rules.language.ruleset import load_platform, overlay_paths
    from moe_rules.selectors.selector import Selector

    stated = Stated.read(args)
    machine = machine_of(args.machine, args.software, stated)
    overlays = overlay_paths(args.rules, args.release)
    if args.model:
        from moe_rules.cli.model_files import read_model
        from moe_rules.models.tables import load_tables

        tables = load_tables(overlays=overlays)
        model = read_model(args.model, tables)
        name = model.name
        scheme = getattr(args, "model_scheme", None)
        if scheme is not None:
            model = model.in_scheme(scheme)
        questions = questions_of(args, machine.facts(), stated, model, tables=tables)
    else:
        name = None
        questions = (_stated_question(args, stated),)
    rules = load_platform(machine.device, overlays)
    stated.refuse_withdrawn(rules)
    requests = requests_from_environ(os.environ, rules.oracles)
    selector = Selector(rules, {**machine.facts(), **stated.switches}, requested=requests)
    questions = tuple(q.with_notes(stated.notes()) for q in questions)
    return Asked(machine, selector, name, questions, parallelism_in_words(args))


def parallelism_in_words(args: argparse.Namespace) -> str:
    """What the options say of parallelism, as ", tp 8, ep"; empty where they say nothing."""
    sizes = [f"{name} {getattr(args, name)}" for name in ("tp", "pcp", "dp", "sp")]
    chosen = [size for size in sizes if not size.endswith((" 1", " None"))]
    chosen += ["ep"] if args.ep else []
    chosen += [args.all2all] if args.all2all else []
    return "".join(f", {word}" for word in chosen)


def machine_of(name: str | None, preset: str | None, stated: Stated) -> Machine:
    """The machine called ``name`` (this one if None) with the facts that are stated."""
    from moe_rules.machines.machine import load_machine

    if name is not None:
        machine = load_machine(name, preset)
    else:
        from moe_rules.machines.detection import detect

        machine = detect()
        machine = machine.with_preset(preset) if preset else machine
    platform, software = stated.groups["platform"], stated.groups["software"]
    if not (platform or software):
        return machine
    return replace(
        machine.with_software(**{name: bool(value) for name, value in software.items()}),
        platform={**machine.platform, **platform},
        source=f"{machine.source}, with facts stated",
    )


def questions_of(
    args: argparse.Namespace,
    machine_facts: Mapping[str, Any],
    stated: Stated,
    model: ModelFiles,
    *,
    tables: Tables | None = None,
) -> tuple[Question, ...]:
    """One question for each kind of MoE layer of a model, or for that of ``--layer``.

    ``tables`` are those of models, the packaged ones if absent.
    """
    from moe_rules.files.problems import RuleFileError
    from moe_rules.models import derive_layers
    from moe_rules.models.errors import (
        CheckpointRefusedError,
        ConfigValueError,
        UnknownModelError,
    )

    try:
        layers = derive_layers(
            model.config,
            machine_facts,
            _deployment_of(args, stated),
            hf_quant_config=model.hf_quant_config,
            overrides=_overrides(args, stated),
            tables=tables,
            names=model.names,
        )
    except ConfigValueError as error:
        raise error.at(model.with_line(error.where)) from None
    except (CheckpointRefusedError, RuleFileError, UnknownModelError):
        raise
    except ValueError as error:
        raise UserError(f"{args.model}: {error}") from None
    if not layers:
        raise NoMoELayersError(args.model)
    questions = tuple(_question_of(layer, stated) for layer in layers)
    return questions if args.layer is None else _with_layer(questions, args.layer)


def _question_of(layer: ModelLayer, stated: Stated) -> Question:
    """The question about one kind of layer of a model."""
    from moe_rules.models.options import option_facts
    from moe_rules.selectors.facts import layer_facts

    facts = {
        **layer_facts(layer.moe),
        **option_facts(layer.options),
        **layer.runtime,
        "weight_key": layer.weight_key,
        "activation_key": layer.activation_key,
        **stated.beside_layer(),
    }
    return Question(layer.oracle, layer.moe, facts, layer.layers, layer.notes, layer.loading)


def _deployment_of(args: argparse.Namespace, stated: Stated) -> Deployment:
    """The engine arguments of a model."""
    from moe_rules.models import Deployment

    return Deployment(
        tensor_parallel_size=args.tp,
        data_parallel_size=args.dp,
        prefill_context_parallel_size=args.pcp,
        enable_expert_parallel=args.ep,
        all2all_backend=_all2all(args),
        enable_eplb=args.eplb,
        enable_lora=bool(stated.groups["layer"].get("is_lora_enabled")),
        moe_backend=_requested(stated),
        quantization=args.quantization,
        quantization_config=getattr(args, "quantization_config", None),
        env=stated.environ(),
    )


def _requested(stated: Stated) -> str:
    name = stated.groups["request"].get("moe_backend", "auto")
    assert isinstance(name, str)
    return name


def _overrides(args: argparse.Namespace, stated: Stated) -> dict[str, Any]:
    """Stated facts under the names by which a model's derivation takes them."""
    from moe_rules.models.overrides import KEYS, OPTIONS

    quantization = stated.groups["quantization"]
    overrides: dict[str, Any] = {
        **stated.groups["layer"],
        **{f"parallel.{name}": value for name, value in stated.groups["parallel"].items()},
        **{name: value for name, value in quantization.items() if name in KEYS | OPTIONS},
    }
    if args.sp is not None:
        overrides.setdefault("parallel.sp_size", args.sp)
    if args.oracle is not None:
        overrides["oracle"] = args.oracle
    return overrides


def _all2all(args: argparse.Namespace) -> str:
    return all2all_called(args.all2all or "allgather_reducescatter")


def all2all_called(name: str) -> str:
    """The name of an exchange of tokens. Raises UserError for one that does not exist."""
    from moe_rules.vocabulary.fact_values import did_you_mean
    from moe_rules.vocabulary.facts import ALL2ALL_BACKENDS

    if name not in ALL2ALL_BACKENDS:
        raise UserError(
            f"--all2all {name}: there is no such backend{did_you_mean(name, ALL2ALL_BACKENDS)} "
            f"(known: {', '.join(ALL2ALL_BACKENDS)})"
        )
    return name


def _stated_question(args: argparse.Namespace, stated: Stated) -> Question:
    """The question about a layer that is stated fact by fact."""
    from moe_rules.selectors.facts import layer_facts
    from moe_rules.vocabulary.layer import FusedMoEConfig

    layer: dict[str, Any] = dict(stated.groups["layer"])
    missing = [f"--set {name}=..." for name in REQUIRED_FACTS if name not in layer]
    missing[:0] = [] if args.oracle else ["--oracle NAME"]
    if missing:
        raise UserError(
            f"without --model the layer has to be stated; missing: {', '.join(missing)}"
        )
    for option in ("layer", "quantization", "quantization_config", "model_scheme"):
        if getattr(args, option, None) is not None:
            word = option.removeprefix("model_").replace("_", "-")
            raise UserError(f"--{word} goes with --model")
    if "moe_backend" in stated.groups["request"]:
        layer["moe_backend"] = stated.groups["request"]["moe_backend"]
    try:
        moe = FusedMoEConfig(**layer, moe_parallel_config=_parallel(args, stated))
    except ValueError as error:
        raise UserError(str(error)) from None
    facts: dict[str, FactValue] = {"weight_key": None, "activation_key": None}
    return Question(args.oracle, moe, {**layer_facts(moe), **facts, **stated.beside_layer()})


def _parallel(args: argparse.Namespace, stated: Stated) -> FusedMoEParallelConfig:
    from moe_rules.vocabulary.layer import FusedMoEParallelConfig

    parallel = FusedMoEParallelConfig.make(
        tp_size=args.tp,
        pcp_size=args.pcp,
        dp_size=args.dp,
        sp_size=args.sp or 1,
        enable_expert_parallel=args.ep,
        all2all_backend=_all2all(args),
        enable_eplb=args.eplb,
    )
    facts: dict[str, Any] = dict(stated.groups["parallel"])
    return replace(parallel, **facts)


def _with_layer(questions: tuple[Question, ...], index: int) -> tuple[Question, ...]:
    found = tuple(question for question in questions if index in question.layers)
    if not found:
        kinds = "; ".join(question.layers_in_words for question in questions)
        raise UserError(f"--layer {index}: no MoE layer has this index ({kinds})")
    return found
