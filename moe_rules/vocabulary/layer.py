"""One MoE layer as selection and kernels see it: sizes, activation, routing, parallelism.

The classes carry vLLM's names and field names (``FusedMoEConfig`` and
``FusedMoEParallelConfig`` of ``vllm/model_executor/layers/fused_moe/config.py``), but hold only
plain values, so that neither torch nor anything else is imported. dtypes are names: "bf16",
"fp16", "fp32"; a ``torch.dtype`` given instead is turned into its name.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

ACTIVATIONS = (
    "silu",
    "gelu",
    "gelu_tanh",
    "relu2",
    "swigluoai",
    "situ",
    "swigluoai_uninterleave",
    "swiglustep",
    "silu_no_mul",
    "gelu_no_mul",
    "gelu_tanh_no_mul",
    "relu2_no_mul",
)
"""Activation names (vLLM's ``MoEActivation`` values). ``*_no_mul`` have no gate."""

ROUTING_METHODS = (
    "Default",
    "Renormalize",
    "DeepSeekV3",
    "Llama4",
    "RenormalizeNaive",
    "TopK",
    "SigmoidRenorm",
    "MiniMax2",
    "Sigmoid",
    "Unspecified",
    "DeepseekV4",
    "Custom",
    "Simulated",
)
"""Routing method names (vLLM's ``RoutingMethodType`` members)."""

DTYPES = ("bf16", "fp16", "fp32")

_DTYPE_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16"}


def dtype_name(dtype: object) -> str:
    """The short name of a dtype given as a ``torch.dtype``, "torch.bfloat16", "bfloat16" or "bf16".

    Raises ValueError for a dtype that MoE activations cannot have.
    """
    text = str(dtype).removeprefix("torch.")
    text = _DTYPE_NAMES.get(text, text)
    if text not in DTYPES:
        raise ValueError(f"unsupported dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    return text


@dataclass(frozen=True)
class FusedMoEParallelConfig:
    """How a MoE layer is spread over devices, as one rank sees it.

    With expert parallelism ``tp_size`` is 1 and ``ep_size`` is the number of ranks that share the
    experts; without it ``tp_size`` covers all ranks and ``ep_size`` is 1. See :meth:`make`.
    """

    tp_size: int = 1
    pcp_size: int = 1
    dp_size: int = 1
    ep_size: int = 1
    sp_size: int = 1
    use_ep: bool = False
    all2all_backend: str = "allgather_reducescatter"
    enable_eplb: bool = False

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
        flat = tp_size * pcp_size * dp_size
        use_ep = enable_expert_parallel and flat > 1
        return cls(
            tp_size=1 if use_ep else flat,
            pcp_size=pcp_size,
            dp_size=dp_size,
            ep_size=flat if use_ep else 1,
            sp_size=sp_size,
            use_ep=use_ep,
            all2all_backend=all2all_backend,
            enable_eplb=enable_eplb,
        )

    @property
    def use_all2all_kernels(self) -> bool:
        """Tokens are exchanged between ranks: expert parallelism with DP, PCP or SP."""
        return self.use_ep and (self.dp_size > 1 or self.pcp_size > 1 or self.sp_size > 1)


@dataclass(frozen=True)
class FusedMoEConfig:
    """One MoE layer on one rank. Field names are vLLM's; sizes count elements.

    ``num_experts`` counts all (global) experts. ``intermediate_size_per_partition`` is derived
    (``intermediate_size / tp_size``) unless given. ``router_logits_dtype`` defaults to
    ``in_dtype``; ``intermediate_size_per_partition_unpadded`` to the partitioned size.

    Raises ValueError for an unknown activation, routing method or dtype, and for an
    ``intermediate_size`` that ``tp_size`` does not divide.
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
        put = object.__setattr__
        put(self, "in_dtype", dtype_name(self.in_dtype))
        logits = self.router_logits_dtype
        put(self, "router_logits_dtype", self.in_dtype if logits is None else dtype_name(logits))
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
        if self.routing_method not in ROUTING_METHODS:
            raise ValueError(
                f"unknown routing_method {self.routing_method!r}; "
                f"expected one of {', '.join(ROUTING_METHODS)}"
            )
        if self.intermediate_size_per_partition < 0:
            tp_size = self.moe_parallel_config.tp_size
            if tp_size < 1 or self.intermediate_size % tp_size:
                raise ValueError(
                    f"intermediate_size {self.intermediate_size} is not divisible by "
                    f"tp_size {tp_size}"
                )
            put(self, "intermediate_size_per_partition", self.intermediate_size // tp_size)
        if self.intermediate_size_per_partition_unpadded is None:
            put(
                self,
                "intermediate_size_per_partition_unpadded",
                self.intermediate_size_per_partition,
            )

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
    def from_dict(cls, data: dict[str, Any]) -> FusedMoEConfig:
        """Build from plain values; ``parallel`` holds the :class:`FusedMoEParallelConfig` fields.

        Raises ValueError for an unknown field, TypeError for a missing one.
        """
        given = dict(data)
        parallel = FusedMoEParallelConfig(**given.pop("parallel", {}))
        unknown = given.keys() - _DEFAULTS.keys()
        if unknown:
            raise ValueError(f"unknown layer fact {min(unknown)!r}")
        values = {**_DEFAULTS, **given, "moe_parallel_config": parallel}
        if MISSING in values.values():
            return cls(moe_parallel_config=parallel, **given)  # which says what is missing
        # The constructor of a frozen dataclass sets every field by a call, ten times as slow.
        config = object.__new__(cls)
        config.__dict__.update(values)
        config.__post_init__()
        return config


_DEFAULTS = {
    field.name: field.default
    for field in fields(FusedMoEConfig)
    if field.name != "moe_parallel_config"
}
REQUIRED_FACTS = tuple(name for name, default in _DEFAULTS.items() if default is MISSING)
"""The layer facts that have no default: without them there is no layer."""
