"""Adapters of kernels that others publish, one module each, and all of them together."""

from collections.abc import Mapping

from moe_kernels.benchmark.peers import Peer

from benchmarks.peers import (
    deepgemm,
    humming,
    marlin,
    sglang_triton,
    triton_kernels,
    vllm_cutlass,
    vllm_triton,
)

PEERS: Mapping[str, Peer] = {
    **vllm_triton.PEERS,
    **vllm_cutlass.PEERS,
    **deepgemm.PEERS,
    **humming.PEERS,
    **marlin.PEERS,
    **sglang_triton.PEERS,
    **triton_kernels.PEERS,
}
