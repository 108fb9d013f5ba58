"""Facts that a user states (``--set fact=value``) in place of derived ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from moe_rules.models.quantization import Question
from moe_rules.models.suggest import unknown_name
from moe_rules.vocabulary.fact_values import parse_quant_key
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import QuantKey
from moe_rules.vocabulary.record import Record

LAYER = frozenset(one.name for one in fields(FusedMoEConfig)) - {"moe_parallel_config"}
PARALLEL = frozenset(f"parallel.{one.name}" for one in fields(FusedMoEParallelConfig))
KEYS = frozenset(("weight_key", "activation_key"))
OPTIONS = frozenset(
    ("allow_vllm_cutlass", "may_have_zp", "may_have_bias", "allow_tile_padding", "quant_config")
)


class Overrides(Record):
    """Stated facts by where they belong: layer, parallel part, quantization keys, options.

    ``oracle`` replaces the whole reading of the checkpoint's quantization.
    """

    layer: Mapping[str, Any]
    parallel: Mapping[str, Any]
    keys: Mapping[str, QuantKey | None]
    options: Mapping[str, Any]
    oracle: str | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Overrides:
        """Sort stated facts. Raises ValueError for a name or key that is not known."""
        known = LAYER | PARALLEL | KEYS | OPTIONS | {"oracle"}
        for name in given:
            if name not in known:
                raise ValueError(unknown_name("fact", name, known))
        return cls(
            {name: value for name, value in given.items() if name in LAYER},
            {name[9:]: value for name, value in given.items() if name in PARALLEL},
            {n: None if v is None else parse_quant_key(v) for n, v in given.items() if n in KEYS},
            {name: value for name, value in given.items() if name in OPTIONS},
            given.get("oracle"),
        )

    def in_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """An architecture's row that takes the stated facts as they are."""
        stated = {name: {"literal": value} for name, value in self.layer.items() if name in row}
        return {**row, **stated}

    def in_layer(self, layer: FusedMoEConfig) -> FusedMoEConfig:
        """The layer with the stated facts; sizes that follow from them are derived anew."""
        if not (self.layer or self.parallel):
            return layer
        parallel = replace(layer.moe_parallel_config, **self.parallel)
        derived = {
            "intermediate_size_per_partition": -1,
            "intermediate_size_per_partition_unpadded": None,
        }
        return replace(layer, moe_parallel_config=parallel, **{**derived, **self.layer})

    def in_question(self, question: Question) -> Question:
        """What is asked, with the stated keys and options."""
        return replace(
            question,
            weight_key=self.keys.get("weight_key", question.weight_key),
            activation_key=self.keys.get("activation_key", question.activation_key),
            options={**question.options, **self.options},
        )
