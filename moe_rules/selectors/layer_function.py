"""An oracle on one machine as a plain Python function of a layer's attributes.

What a call does not say has its default, which the function is compiled with, as it is with what
the machine has: only what differs from layer to layer is asked, and only along the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from moe_rules.analysis.classes import Space
from moe_rules.analysis.questions import MISSING, Questions, Seen
from moe_rules.analysis.source import Function, as_function
from moe_rules.analysis.symbolic import compile_selection
from moe_rules.language.rules import PlatformRules
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig

ATTRIBUTES = {
    **{name: f"layer.{name}" for name in FusedMoEConfig.__dataclass_fields__},
    **{
        name: f"layer.moe_parallel_config.{name}"
        for name in FusedMoEParallelConfig.__dataclass_fields__
    },
    **{name: name for name in ("weight_key", "activation_key")},
}
"""Every fact that each call has, and how it is read."""
PARAMETERS = "layer, weight_key, activation_key, others"


def layer_function(
    rules: PlatformRules, oracle: str, constants: Mapping[str, FactValue], others: Collection[str]
) -> Function:
    """Compile an oracle to a function of a FusedMoEConfig, the keys, and a mapping of ``others``.

    ``others`` are the facts that every call has besides those of the layer, ``constants`` those
    that all calls share; nothing else is known.
    """
    read = ATTRIBUTES | {name: f"others[{name!r}]" for name in others}
    fixed: dict[str, Seen] = {n: MISSING for n, f in FACTS.items() if f.group != "derived"}
    fixed |= constants
    questions = Questions({name: value for name, value in fixed.items() if name not in read})
    questions.add_oracle(rules, oracle)
    space = Space(questions)
    selection = compile_selection(space, rules, rules.oracles[oracle])
    return as_function(space, selection.results, PARAMETERS, read)
