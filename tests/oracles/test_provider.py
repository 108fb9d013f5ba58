"""Whose kernels a backend has, where vLLM is not installed; ``tests/vllm`` has the rest."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from moe_rules.oracles import fp8, unquantized, w4a8_int8
from moe_rules.vocabulary.layer import FusedMoEConfig

torch = pytest.importorskip("torch")
from moe_kernels import registry  # noqa: E402 (needs torch)

LAYER = FusedMoEConfig(num_experts=2, experts_per_token=1, hidden_dim=8, intermediate_size=4)

without_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is not None, reason="vLLM is installed"
)


@without_vllm
def test_the_backend_and_the_package_that_is_missing_are_named() -> None:
    oracle: Any = fp8.Fp8MoEKernelOracle("h100")
    message = (
        "backend MARLIN of oracle 'fp8': kernel MarlinExperts: .*not installed; pip install vllm"
    )
    with pytest.raises(ImportError, match=message):
        oracle.convert_to_kernel_format(
            fp8.Fp8MoeBackend.MARLIN, LAYER, torch.empty(1), torch.empty(1)
        )
    with pytest.raises(ImportError, match=message):
        oracle.make_quant_config(fp8.Fp8MoeBackend.MARLIN)


@without_vllm
def test_functions_called_as_vllm_calls_them_need_vllm() -> None:
    with pytest.raises(ImportError, match="vllm"):
        w4a8_int8.make_w4a8_int8_moe_quant_config(block_shape=(-1, 1))
    with pytest.raises(ImportError, match="vllm"):
        unquantized.unquantized_round_up_hidden_size_and_intermediate_size(
            unquantized.UnquantizedMoeBackend.TRITON, 8, 4
        )


@without_vllm
def test_a_provider_that_is_missing_is_an_error_even_where_another_has_the_class() -> None:
    backend = unquantized.UnquantizedMoeBackend.TRITON
    oracle: Any = unquantized.UnquantizedMoEKernelOracle("h100", provider="vllm")
    with pytest.raises(ImportError, match=r"kernel TritonExperts: vllm has it as .*not installed"):
        oracle.backend_to_kernel_cls(backend)


def test_a_backend_without_kernels_is_named() -> None:
    oracle: Any = unquantized.UnquantizedMoEKernelOracle("tpu")
    with pytest.raises(ValueError, match="backend TPU of oracle 'unquantized' has no kernels"):
        oracle.make_quant_config(unquantized.UnquantizedMoeBackend.TPU)


def test_our_kernels_take_no_arguments_of_others() -> None:
    oracle: Any = unquantized.UnquantizedMoEKernelOracle("x86")
    backend = unquantized.UnquantizedMoeBackend.CPU
    experts = registry.resolve("CPUUnquantizedExperts", provider="moe_kernels")
    w13, w2 = torch.empty(2, 8, 8), torch.empty(2, 8, 4)
    with pytest.raises(ValueError, match="CPUUnquantizedExperts takes no layer"):
        oracle.convert_to_kernel_format(backend, LAYER, w13, w2, layer=object())
    with pytest.raises(ValueError, match="takes no routing_tables"):
        oracle.make_kernel(oracle.make_quant_config(backend), LAYER, backend, experts, ("tables",))


def test_a_kernel_of_vllms_is_not_described_by_our_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_installed", lambda package: True)
    oracle: Any = fp8.Fp8MoEKernelOracle("h100")
    with pytest.raises(TypeError, match=r"MarlinExperts is vLLM's and takes vLLM's own backend"):
        oracle.make_quant_config(fp8.Fp8MoeBackend.MARLIN)
