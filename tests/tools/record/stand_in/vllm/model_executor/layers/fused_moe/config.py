import enum
from dataclasses import dataclass

import torch
from vllm.model_executor.layers.fused_moe.activation import MoEActivation


class RoutingMethodType(enum.Enum):
    Default = 0
    Renormalize = 1


@dataclass
class FusedMoEParallelConfig:
    tp_size: int
    tp_rank: int
    pcp_size: int
    pcp_rank: int
    dp_size: int
    dp_rank: int
    ep_size: int
    ep_rank: int
    sp_size: int
    use_ep: bool
    all2all_backend: str
    enable_eplb: bool

    @property
    def use_batched_activation_format(self):
        return self.use_ep and self.all2all_backend == "deepep_low_latency"


@dataclass
class FusedMoEConfig:
    num_experts: int
    experts_per_token: int
    hidden_dim: int
    intermediate_size: int
    num_local_experts: int
    num_logical_experts: int
    activation: MoEActivation
    device: str
    routing_method: RoutingMethodType
    moe_parallel_config: FusedMoEParallelConfig
    in_dtype: torch.dtype
    router_logits_dtype: torch.dtype
    intermediate_size_per_partition_unpadded: int
    moe_backend: str

    def __post_init__(self):
        if self.num_experts < self.experts_per_token:
            raise ValueError("fewer experts than a token is routed to")
