"""How a model is deployed, as far as its MoE layers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from moe_rules.models.suggest import unknown_name
from moe_rules.vocabulary.switches import switches_from_environ

SEQUENCE_PARALLEL_ALL2ALL = frozenset(
    (
        "allgather_reducescatter",
        "deepep_high_throughput",
        "deepep_low_latency",
        "deepep_v2",
        "flashinfer_nvlink_one_sided",
        "passthrough",
        "mori_high_throughput",
        "mori_low_latency",
        "nixl_ep",
    )
)
"""all2all backends under which vLLM splits tokens over tensor-parallel ranks around MoE layers."""


@dataclass(frozen=True)
class Deployment:
    """Engine arguments that matter to a MoE layer; the names are vLLM's.

    ``quantization`` is a method that the user asks for, ``quantization_config`` what is quantized
    online (a mapping of ``linear``, ``moe``, ``ignore``, ``targets``), ``env`` the VLLM_* variables
    that are set: text, of which conditions see what the reference reads.
    """

    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    prefill_context_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    enable_expert_parallel: bool = False
    all2all_backend: str = "allgather_reducescatter"
    enable_eplb: bool = False
    num_redundant_experts: int = 0
    enable_lora: bool = False
    moe_backend: str = "auto"
    quantization: str | None = None
    quantization_config: Mapping[str, Any] | None = None
    dtype: str = "auto"
    env: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Deployment:
        """From engine arguments by name; ``name``, a label, is ignored.

        Raises ValueError for an argument that is not known here.
        """
        known = {one.name for one in fields(cls)}
        for name in data:
            if name not in known and name != "name":
                raise ValueError(unknown_name("deployment argument", name, known))
        return cls(**{name: value for name, value in data.items() if name in known})

    def facts(self) -> dict[str, Any]:
        """What conditions may test as ``deployment.*``."""
        parallel = self.enable_expert_parallel and self.tensor_parallel_size > 1
        spread = self.data_parallel_size > 1
        return {
            **{one.name: getattr(self, one.name) for one in fields(self) if one.name != "env"},
            "env": switches_from_environ(self.env),
            "ranks": self.tensor_parallel_size
            * self.prefill_context_parallel_size
            * self.data_parallel_size,
            "sequence_parallel_moe": parallel
            and spread
            and self.all2all_backend in SEQUENCE_PARALLEL_ALL2ALL,
            "sequence_parallel_any_all2all": parallel
            and spread
            and self.pipeline_parallel_size == 1,
        }
