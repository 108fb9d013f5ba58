"""The vLLM-shaped interface: enums, requests, selection, binding, errors."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from moe_rules.files.releases import releases
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import load_machine
from moe_rules.oracles import (
    fp8,
    int8,
    int_wna16,
    mxfp4,
    mxfp8,
    nvfp4,
    unquantized,
    w4a8,
    w4a8_int8,
)
from moe_rules.oracles.backends import (
    Fp8MoeBackend,
    Mxfp4MoeBackend,
    UnquantizedMoeBackend,
)
from moe_rules.oracles.base import MoEKernelOracle
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from moe_rules.vocabulary.table_names import PLATFORMS

RELEASES = [release.name for release in releases()]
ORACLES: list[type[MoEKernelOracle[Any]]] = [
    unquantized.UnquantizedMoEKernelOracle,
    fp8.Fp8MoEKernelOracle,
    int8.Int8MoEKernelOracle,
    int_wna16.WNA16MoEKernelOracle,
    mxfp4.Mxfp4MoEKernelOracle,
    mxfp4.DeepSeekV4Mxfp4MoEKernelOracle,
    mxfp8.Mxfp8MoEKernelOracle,
    nvfp4.NvFp4MoEKernelOracle,
    w4a8.W4A8MoEKernelOracle,
    w4a8_int8.W4A8Int8MoEKernelOracle,
]
LAYER = FusedMoEConfig(
    num_experts=128,
    experts_per_token=8,
    hidden_dim=2048,
    intermediate_size=768,
    routing_method="RenormalizeNaive",
)
BLOCK = (NAMED_KEYS["kFp8Static128BlockSym"], NAMED_KEYS["kFp8Dynamic128Sym"])


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_every_backend_of_the_tables_is_a_member_of_the_enum(
    oracle: type[MoEKernelOracle[Any]],
) -> None:
    members = oracle("h100").backend_enum_cls().__members__
    for platform, release in product(PLATFORMS, RELEASES):
        table = load_platform(platform, release=release).oracles[oracle.name]
        named = {*table.backends, *(s.backend.name for s in table.shortcuts if s.backend)}
        named |= {table.otherwise.backend} - {None}
        assert named <= set(members)


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_every_kernel_name_of_the_tables_is_known_to_the_registry(
    oracle: type[MoEKernelOracle[Any]],
) -> None:
    from moe_kernels.registry import names

    for platform, release in product(PLATFORMS, RELEASES):
        table = load_platform(platform, release=release).oracles[oracle.name]
        kernels = {c.kernel.class_name for b in table.backends.values() for c in b.choices}
        assert kernels <= set(names())


def test_select_backend_returns_member_and_class() -> None:
    backend, cls = fp8.Fp8MoEKernelOracle("h100").select_backend(LAYER, *BLOCK)
    assert backend is Fp8MoeBackend.TRITON
    assert cls is not None
    assert cls.__name__ == "TritonExperts"


def test_a_layer_has_two_names_and_is_one_of_two_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8, "_oracle", fp8.Fp8MoEKernelOracle("h100"))
    selected = fp8.select_fp8_moe_backend(LAYER, *BLOCK)
    keys = {"weight_key": BLOCK[0], "activation_key": BLOCK[1]}
    assert fp8.select_fp8_moe_backend(config=LAYER, **keys) == selected
    assert fp8.select_fp8_moe_backend(moe_config=LAYER, **keys) == selected
    with pytest.raises(TypeError, match="got both config and moe_config"):
        fp8.select_fp8_moe_backend(LAYER, moe_config=LAYER)
    with pytest.raises(TypeError, match="got neither"):
        fp8.select_fp8_moe_backend()
    with pytest.raises(TypeError, match=r"FusedMoEConfig, got dict"):
        fp8.select_fp8_moe_backend({"num_experts": 8})
    with pytest.raises(TypeError, match=r"FusedMoEConfig, got dict"):
        int8.Int8MoEKernelOracle("h100").select_backend({})  # whose usual keys would be vLLM's
    with pytest.raises(TypeError, match=r"a quantization key is .*, got str"):
        fp8.select_fp8_moe_backend(LAYER, "kFp8Static128BlockSym")


def test_keys_that_are_not_named_are_the_oracles_usual_ones() -> None:
    decision = int8.Int8MoEKernelOracle("h100").decide(LAYER)
    assert decision.facts["weight_key"] == NAMED_KEYS["kInt8StaticChannelSym"]
    assert decision.facts["activation_key"] == NAMED_KEYS["kInt8DynamicTokenSym"]


def test_what_a_backend_offers_to_some_layers_only_is_not_among_its_classes() -> None:
    oracle = mxfp4.Mxfp4MoEKernelOracle("b200")
    names = oracle.kernel_names(Mxfp4MoeBackend.FLASHINFER_TRTLLM_MXFP4_BF16)
    assert names == ["TrtLlmMxfp4ExpertsMonolithic", "TrtLlmMxfp4ExpertsModular"]


def test_select_backend_without_a_kernel() -> None:
    oracle = unquantized.UnquantizedMoEKernelOracle("tpu")
    assert oracle.select_backend(LAYER) == (UnquantizedMoeBackend.TPU, None)


def test_a_kernel_of_another_package_is_named() -> None:
    oracle = unquantized.UnquantizedMoEKernelOracle("b200")
    assert oracle.decide(LAYER).kernel == "TrtLlmBf16ExpertsMonolithic"
    with pytest.raises(ImportError, match="vllm"):
        oracle.select_backend(LAYER)


def test_priority_depends_on_layer_and_machine() -> None:
    oracle = fp8.Fp8MoEKernelOracle("h100")
    assert oracle.get_priority_backends(LAYER, *BLOCK)[0] is Fp8MoeBackend.TRITON
    assert (
        fp8.Fp8MoEKernelOracle("b200").get_priority_backends(LAYER, *BLOCK)[0]
        is Fp8MoeBackend.FLASHINFER_TRTLLM
    )


def test_a_request_by_oracle_decides_and_leaves_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = fp8.Fp8MoEKernelOracle("h100")
    order = oracle.get_priority_backends(LAYER, *BLOCK)
    monkeypatch.setenv("MOE_RULES_BACKEND", "fp8=marlin,draft=auto")
    assert oracle.decide(LAYER, *BLOCK).backend == "MARLIN"
    assert oracle.decide(LAYER, *BLOCK, model_role="draft").backend == "TRITON"
    assert oracle.get_priority_backends(LAYER, *BLOCK) == order


def test_map_backend() -> None:
    oracle = mxfp4.Mxfp4MoEKernelOracle("h100")
    assert oracle.map_backends("flashinfer_trtllm") == [
        Mxfp4MoeBackend.FLASHINFER_TRTLLM_MXFP4_BF16,
        Mxfp4MoeBackend.FLASHINFER_TRTLLM_MXFP4_MXFP8,
    ]
    with pytest.raises(ValueError, match="did you mean 'triton'"):
        oracle.map_backend("tritn")
    with pytest.raises(ValueError, match="selects automatically"):
        unquantized.UnquantizedMoEKernelOracle("h100").map_backend("marlin")


def test_kernel_names_of_a_backend() -> None:
    oracle = fp8.Fp8MoEKernelOracle("h100")
    assert oracle.kernel_names(Fp8MoeBackend.DEEPGEMM) == ["TritonOrDeepGemmExperts"]
    with pytest.raises(ValueError, match="does not exist on cuda"):
        oracle.kernel_names(Fp8MoeBackend.AITER)


@pytest.mark.parametrize("backend", [None, "TRITON", Mxfp4MoeBackend.TRITON, Fp8MoeBackend])
def test_what_is_no_backend_of_an_oracle(backend: Any) -> None:
    oracle = fp8.Fp8MoEKernelOracle("h100")
    for ask in (
        oracle.kernel_names,
        oracle.backend_to_kernel_cls,
        oracle.make_quant_config,
        lambda one: oracle.convert_to_kernel_format(one, LAYER, *[None] * 2),
    ):
        with pytest.raises(TypeError, match="a backend here is a member of Fp8MoeBackend, got"):
            ask(backend)
    with pytest.raises(TypeError, match="experts_cls is the class of a kernel, got None"):
        oracle.make_kernel(None, LAYER, Fp8MoeBackend.TRITON, None)  # type: ignore[arg-type]


def test_a_request_that_cannot_serve_is_a_value_error() -> None:
    layer = FusedMoEConfig(**{**LAYER.__dict__, "moe_backend": "hpc", "activation": "gelu"})
    with pytest.raises(ValueError, match="activation is gelu, wanted silu"):
        fp8.Fp8MoEKernelOracle("h100").decide(layer, *BLOCK)


def test_an_unknown_request_is_a_value_error_even_where_the_oracle_raises_another() -> None:
    layer = FusedMoEConfig(**{**LAYER.__dict__, "moe_backend": "triton"})
    with pytest.raises(ValueError, match="is no backend of"):
        w4a8.W4A8MoEKernelOracle("h100").decide(layer, *w4a8_keys())
    layer = FusedMoEConfig(**{**LAYER.__dict__, "moe_backend": "cutlass", "in_dtype": "fp16"})
    with pytest.raises(NotImplementedError, match="in_dtype is fp16, wanted bf16"):
        w4a8.W4A8MoEKernelOracle("h100").decide(layer, *w4a8_keys())


def w4a8_keys() -> tuple[Any, Any]:
    return NAMED_KEYS["kInt4Static"], NAMED_KEYS["kFp8DynamicTokenSym"]


def test_no_backend_is_a_not_implemented_error() -> None:
    with pytest.raises(NotImplementedError, match="nearest"):
        fp8.Fp8MoEKernelOracle("v100").decide(LAYER, *BLOCK)


def test_software_decides() -> None:
    bare = load_machine("b200", preset="bare")
    decision = unquantized.UnquantizedMoEKernelOracle(bare).decide(LAYER)
    assert decision.kernel == "TritonExperts"


def test_selected_kernel_runs_on_the_cpu() -> None:
    torch = pytest.importorskip("torch")
    from moe_kernels.testing import random_layer

    config = FusedMoEConfig(
        num_experts=4, experts_per_token=2, hidden_dim=64, intermediate_size=64, in_dtype="fp32"
    )
    oracle = unquantized.UnquantizedMoEKernelOracle(load_machine("x86"))
    backend, cls = oracle.select_backend(config)
    assert cls is not None
    layer = random_layer(config, num_tokens=5)
    kernel = oracle.make_kernel(layer.quant_config, config, backend, cls)
    output = kernel.apply(**layer.arguments())
    torch.testing.assert_close(output.double(), layer.reference(kernel), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("oracle", "machine", "weight", "activation"),
    [
        (fp8.Fp8MoEKernelOracle, "x86-amx", "kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
        (fp8.Fp8MoEKernelOracle, "x86-amx-fp8", "kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
        (int8.Int8MoEKernelOracle, "x86-amx", "kInt8StaticChannelSym", "kInt8DynamicTokenSym"),
        (mxfp4.Mxfp4MoEKernelOracle, "x86-amx", "kMxfp4Static", None),
        (w4a8_int8.W4A8Int8MoEKernelOracle, "arm", "kInt4W4A8StaticGroup32Sym", None),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_quantized_layers_run_on_the_kernel_that_is_selected(
    oracle: type[MoEKernelOracle[Any]], machine: str, weight: str, activation: str | None
) -> None:
    pytest.importorskip("torch")
    from moe_kernels.reference import relative_error
    from moe_kernels.testing import random_layer

    keys = (NAMED_KEYS[weight], None if activation is None else NAMED_KEYS[activation])
    config = FusedMoEConfig(
        num_experts=4, experts_per_token=2, hidden_dim=256, intermediate_size=128
    )
    ours = oracle(load_machine(machine))
    backend, cls = ours.select_backend(config, *keys)
    assert cls is not None
    layer = random_layer(config, *keys, num_tokens=9)
    kernel = ours.make_kernel(layer.quant_config, config, backend, cls)
    error = relative_error(kernel.apply(**layer.arguments()), layer.reference(kernel))
    assert error <= layer.error_bound(kernel)


def test_a_checkpoint_becomes_a_quant_config() -> None:
    torch = pytest.importorskip("torch")
    config = FusedMoEConfig(num_experts=2, experts_per_token=1, hidden_dim=8, intermediate_size=4)
    oracle = fp8.Fp8MoEKernelOracle("h100")
    key = NAMED_KEYS["kFp8StaticTensorSym"]
    values = torch.ones(2, 8, 8).to(torch.float8_e4m3fn)
    weights = oracle.convert_to_kernel_format(
        Fp8MoeBackend.TRITON,
        config,
        values,
        values[:, :, :4].contiguous(),
        weight_key=key,
        w13_scale=torch.tensor([[0.5, 0.5], [2.0, 2.0]]),  # gate and up apart
        w2_scale=torch.tensor([1.0, 3.0]),
    )
    assert weights.w13_scale is not None
    assert weights.w13_scale.tolist() == [0.5, 2.0]
    quantization = oracle.make_quant_config(
        Fp8MoeBackend.TRITON, weights, NAMED_KEYS["kFp8DynamicTokenSym"]
    )
    assert quantization.weight_key == key


@pytest.mark.parametrize("dequantize", [False, True])
def test_weights_are_dequantized_for_cpus_only_where_the_layer_allows_it(dequantize: bool) -> None:
    torch = pytest.importorskip("torch")
    from moe_kernels.testing import random_layer

    config = FusedMoEConfig(2, 1, 64, 32, in_dtype="fp32")
    layer = random_layer(config, NAMED_KEYS["kMxfp4Static"])
    oracle = mxfp4.Mxfp4MoEKernelOracle("x86-amx")
    converted = oracle.convert_to_kernel_format(
        Mxfp4MoeBackend.CPU,
        config,
        layer.w13,
        layer.w2,
        weight_key=NAMED_KEYS["kMxfp4Static"],
        dequantize_for_cpu=dequantize,
        w13_scale=layer.quant_config.w13_scale,
        w2_scale=layer.quant_config.w2_scale,
    )
    assert (converted.packed is not None) == (dequantize and torch.backends.mkldnn.is_available())


def test_a_backend_of_an_overlay_is_no_member_of_the_enum(tmp_path: Path) -> None:
    (tmp_path / "cuda.yaml").write_text(
        "platform: cuda\n"
        "oracles: {unquantized: {backends: {MINE: {kernels: [TritonExperts]}},"
        " adjust: [{first: [MINE], because: mine}]}}\n"
    )
    oracle = unquantized.UnquantizedMoEKernelOracle("h100", [tmp_path])
    assert oracle.decide(LAYER).backend == "MINE"
    with pytest.raises(ValueError, match=r"'MINE'.* no such member; it has FLASHINFER_TRTLLM, "):
        oracle.select_backend(LAYER)
    with pytest.raises(ValueError, match=r"'MINE'.* no such member"):
        oracle.get_priority_backends(LAYER)


def test_an_oracle_of_an_older_release() -> None:
    layer = FusedMoEConfig(
        num_experts=8, experts_per_token=2, hidden_dim=1024, intermediate_size=512
    )
    kernels = {
        release: unquantized.UnquantizedMoEKernelOracle("mi300x", release=release)
        .decide(layer, VLLM_ROCM_USE_AITER=True)
        .kernel
        for release in (None, "0.32")
    }
    assert kernels == {None: "AiterUnquantizedExperts", "0.32": "AiterExperts"}
