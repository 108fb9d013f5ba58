"""Adapters of kernels that others publish, one module each, and all of them together."""

from collections.abc import Mapping

from moe_kernels.benchmark.peers import Peer

from benchmarks.peers import sglang_triton, triton_kernels, vllm_triton

PEERS: Mapping[str, Peer] = {**vllm_triton.PEERS, **sglang_triton.PEERS, **triton_kernels.PEERS}
