"""One MoE layer as selection and kernels see it: sizes, activation, routing, parallelism.

The classes carry vLLM's names and field names (``FusedMoEConfig`` and
``FusedMoEParallelConfig`` of ``vllm/model_executor/layers/fused_moe/config.py``), but hold only
plain values, so that neither torch nor anything else is imported. dtypes are names: "bf16",
"fp16", "fp32"; a ``torch.dtype`` given instead is turned into its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from moe_rules.vocabulary.fact_values import FactError, FactValue, did_you_mean, typed_value
from moe_rules.vocabulary.facts import DTYPES, FACTS

_DTYPE_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16"}


def dtype_name(dtype: object) -> str:
    """The short name of a dtype given as a ``torch.dtype``, "torch.bfloat16", "bfloat16" or "bf16".

    Raises FactError for a dtype that MoE activations cannot have.
    """
    text = str(dtype).removeprefix("torch.")
    text = _DTYPE_NAMES.get(text, text)
    if text not in DTYPES:
        raise FactError(f"unsupported dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    return text


def typed_facts(given: Mapping[str, object]) -> dict[str, FactValue]:
    """Facts by name, each of its type and in its domain. Raises FactError for one that is not."""
    return {name: typed_value(FACTS[name], value) for name, value in given.items()}


_set = object.__setattr__
"""Of a frozen dataclass: where its ``__dict__`` was asked for, reading fields takes longer."""


def _check_fields(one: object, names: Iterable[str]) -> None:
    """Give fields the types of their facts. Raises FactError for a value that one cannot have."""
    for name in names:
        value = getattr(one, name)
        typed = typed_value(FACTS[name], value)
        if typed is not value:
            _set(one, name, typed)


@dataclass(frozen=True)
class FusedMoEParallelConfig:
    """How a MoE layer is spread over devices, as one rank sees it.

    With expert parallelism ``tp_size`` is 1 and ``ep_size`` is the number of ranks that share the
    experts; without it ``tp_size`` covers all ranks and ``ep_size`` is 1. See :meth:`make`.

    Raises FactError for a value that its fact cannot have.
    """

    tp_size: int = 1
    pcp_size: int = 1
    dp_size: int = 1
    ep_size: int = 1
    sp_size: int = 1
    use_ep: bool = False
    all2all_backend: str = "allgather_reducescatter"
    enable_eplb: bool = False

    def __post_init__(self) -> None:
        _check_fields(self, PARALLEL_FIELDS)

    @classmethod
    def make(
        cls,
        *,
        tp_size: int = 1,
        pcp_size: int = 1,
        dp_size: int = 1,
        sp_size: int = 1,
        enable_expert_parallel: bool = False,
        all2all_backend: str = "allgather_reducescatter",
        enable_eplb: bool = False,
    ) -> FusedMoEParallelConfig:
        """Resolve engine-level parallel sizes to the sizes the MoE layer works with."""
        asked = cls(
            tp_size=tp_size,
            pcp_size=pcp_size,
            dp_size=dp_size,
            sp_size=sp_size,
            use_ep=enable_expert_parallel,
            all2all_backend=all2all_backend,
            enable_eplb=enable_eplb,
        )
        flat = asked.tp_size * asked.pcp_size * asked.dp_size
        if asked.use_ep and flat > 1:
            return replace(asked, tp_size=1, ep_size=flat)
        return replace(asked, tp_size=flat, use_ep=False)

    @property
    def use_all2all_kernels(self) -> bool:
        """Tokens are exchanged between ranks: expert parallelism with DP, PCP or SP."""
        return self.use_ep and (self.dp_size > 1 or self.pcp_size > 1 or self.sp_size > 1)


@dataclass(frozen=True)
class FusedMoEConfig:
    """One MoE layer on one rank. Field names are vLLM's; sizes count elements.

    ``num_experts`` counts all (global) experts. ``intermediate_size_per_partition`` is derived
    (``intermediate_size / tp_size``) unless given. ``router_logits_dtype`` defaults to
    ``in_dtype``; ``intermediate_size_per_partition_unpadded`` to the partitioned size. What was
    derived is kept by ``dataclasses.replace``, which cannot tell: -1 or None derives it anew.

    Raises FactError for a value that its fact cannot have, and for an ``intermediate_size`` that
    ``tp_size`` does not divide. Scalars of numpy and torch become Python's.
    """

    num_experts: int
    experts_per_token: int
    hidden_dim: int
    intermediate_size: int
    activation: str = "silu"
    routing_method: str = "Default"
    in_dtype: str = "bf16"
    moe_parallel_config: FusedMoEParallelConfig = field(default_factory=FusedMoEParallelConfig)
    router_logits_dtype: str | None = None
    intermediate_size_per_partition: int = -1
    intermediate_size_per_partition_unpadded: int | None = None
    moe_backend: str = "auto"
    has_bias: bool = False
    is_lora_enabled: bool = False
    has_hash_routing: bool = False
    require_decomposed_backend: bool = False
    skip_final_all_reduce: bool = False
    swiglu_limit: float | None = None
    swiglu_alpha: float | None = None
    swiglu_beta: float | None = None
    activation_situ_beta: float | None = None
    activation_situ_linear_beta: float | None = None

    def __post_init__(self) -> None:
        parallel = self.moe_parallel_config
        if not isinstance(parallel, FusedMoEParallelConfig):
            raise FactError(f"moe_parallel_config is a FusedMoEParallelConfig, not {parallel!r}")
        _set(self, "in_dtype", dtype_name(self.in_dtype))
        logits = self.router_logits_dtype
        _set(self, "router_logits_dtype", self.in_dtype if logits is None else dtype_name(logits))
        _check_fields(self, _GIVEN_FIELDS)
        if self.intermediate_size_per_partition == -1:
            if self.intermediate_size % parallel.tp_size:
                raise FactError(
                    f"intermediate_size {self.intermediate_size} is not divisible by "
                    f"tp_size {parallel.tp_size}"
                )
            partition = self.intermediate_size // parallel.tp_size
            _set(self, "intermediate_size_per_partition", partition)
        if self.intermediate_size_per_partition_unpadded is None:
            partition = self.intermediate_size_per_partition
            _set(self, "intermediate_size_per_partition_unpadded", partition)
        _check_fields(self, _PARTITION)

    @property
    def is_act_and_mul(self) -> bool:
        """The activation is gated: w13 holds a gate and an up projection."""
        return not self.activation.endswith("_no_mul")

    @property
    def num_local_experts(self) -> int:
        """Experts held by one rank (the largest share when they do not divide evenly)."""
        return -(-self.num_experts // self.moe_parallel_config.ep_size)

    def experts_of(self, ep_rank: int) -> range:
        """The experts that rank ``ep_rank`` of ``ep_size`` holds, where they lie in order.

        As in vLLM: where they do not divide, the first ranks hold one more.
        """
        share, more = divmod(self.num_experts, self.moe_parallel_config.ep_size)
        first = ep_rank * share + min(ep_rank, more)
        return range(first, first + share + (ep_rank < more))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FusedMoEConfig:
        """Build from plain values; ``parallel`` holds the :class:`FusedMoEParallelConfig` fields.

        Raises FactError for what is no fact of a layer or that one cannot have, and for one that
        is missing.
        """
        given = _known("a layer", data, (*LAYER_FIELDS, "parallel"))
        parallel = _known("parallel", given.pop("parallel", {}), PARALLEL_FIELDS)
        values = {
            **LAYER_FIELDS,
            **given,
            "moe_parallel_config": FusedMoEParallelConfig(**parallel),
        }
        missing = [name for name, value in values.items() if value is MISSING]
        if missing:
            raise FactError(f"a layer lacks {', '.join(missing)}")
        # The constructor of a frozen dataclass sets every field by a call, ten times as slow.
        config = object.__new__(cls)
        config.__dict__.update(values)
        config.__post_init__()
        return config


def _known(what: str, data: object, names: Iterable[str]) -> dict[str, Any]:
    """A mapping whose keys are among some names. Raises FactError for anything else."""
    known = tuple(names)
    if not isinstance(data, Mapping):
        raise FactError(f"{what} is a mapping of {', '.join(known)}, not {data!r}")
    for name in data:
        if name not in known:
            raise FactError(f"{what} has no fact {name!r}{did_you_mean(name, known)}")
    return dict(data)


PARALLEL_FIELDS = {field.name: field.default for field in fields(FusedMoEParallelConfig)}
"""The fields of a FusedMoEParallelConfig, each a fact, with their defaults."""
LAYER_FIELDS = {
    field.name: field.default
    for field in fields(FusedMoEConfig)
    if field.name != "moe_parallel_config"
}
"""Those of a FusedMoEConfig; MISSING where there is no default."""
_PARTITION = ("intermediate_size_per_partition", "intermediate_size_per_partition_unpadded")
"""The fields that follow from others where they are not given."""
_GIVEN_FIELDS = tuple(name for name in LAYER_FIELDS if name not in _PARTITION)
REQUIRED_FACTS = tuple(name for name, default in LAYER_FIELDS.items() if default is MISSING)
"""The layer facts that have no default: without them there is no layer."""
