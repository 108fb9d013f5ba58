"""Backends whose kernels are vLLM's: vLLM's functions are called, with what is theirs by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

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
from moe_rules.oracles.provider import FUNCTIONS
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tests.oracles import fake_vllm

torch = pytest.importorskip("torch")
from moe_kernels import registry  # noqa: E402 (needs torch)

PACKAGE = fake_vllm.PACKAGE.replace("/", ".")
MOE_CONFIG: Any = SimpleNamespace(
    activation=SimpleNamespace(value="silu"), is_act_and_mul=True, use_mxfp4_w4a4_dsv4=False
)
LAYER = object()


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_vllm.write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("vllm", "flashinfer"):
            del sys.modules[name]


def called(path: str) -> dict[str, Any]:
    """The arguments of the last call of module:function, and what it returned."""
    module, _, function = path.partition(":")
    return dict(importlib.import_module(f"{PACKAGE}.{module}").CALLS[function])


SCALES = ("w13_scale", "w2_scale")
BIASES = ("w13_bias", "w2_bias")
INPUTS = ("a13_scale", "a2_scale")


class Case(NamedTuple):
    """A backend whose kernel vLLM has, and what its functions get."""

    oracle: Any
    backend: str
    key: str | None = None
    machine: str = "h100"
    given: str = ""
    """Names of what a conversion is given besides w13 and w2."""
    conversion: str = ""
    """Parameters of vLLM's conversion that get a thing given, as parameter=given."""
    config: Mapping[str, Any] = MappingProxyType({})
    """What vLLM is told of the keys when it describes the weights."""


SCALES = "layer w13_scale w2_scale"
CASES = {
    "unquantized": Case(
        unquantized.UnquantizedMoEKernelOracle,
        "FLASHINFER_CUTLASS",
        conversion="w13_weight=w13 w2_weight=w2",
    ),
    "fp8": Case(
        fp8.Fp8MoEKernelOracle,
        "MARLIN",
        "kFp8StaticChannelSym",
        given=f"{SCALES} a13_scale",
        conversion="w13_scale=w13_scale w2_scale=w2_scale layer=layer w13_input_scale=a13_scale",
        config={"per_out_ch_quant": True, "per_act_token_quant": True, "block_shape": None},
    ),
    "mxfp8": Case(
        mxfp8.Mxfp8MoEKernelOracle,
        "MARLIN",
        "kMxfp8Static",
        given=SCALES,
        conversion="w13=w13 w2_scale=w2_scale layer=layer",
        config={"block_shape": [1, 32], "per_out_ch_quant": False},
    ),
    "int8": Case(
        int8.Int8MoEKernelOracle,
        "HUMMING",
        "kInt8StaticChannelSym",
        given=SCALES,
        conversion="w13_scale=w13_scale layer=layer",
        config={"per_act_token_quant": True},
    ),
    "int_wna16": Case(
        int_wna16.WNA16MoEKernelOracle,
        "MARLIN",
        "kInt4Static32Asym",
        given=f"{SCALES} quant_config w13_zp w2_zp w13_bias w2_bias",
        conversion="w13_qzeros=w13_zp w2_qzeros=w2_zp w13_bias=w13_bias quant_config=quant_config",
        config={"group_size": 32, "num_bits": 4},
    ),
    "mxfp4": Case(
        mxfp4.Mxfp4MoEKernelOracle,
        "MARLIN",
        "kMxfp4Static",
        given=f"{SCALES} w13_bias w2_bias",
        conversion="w13_weight_scale=w13_scale w2_bias=w2_bias layer=layer",
        config={"a1_scale": None},
    ),
    "mxfp4_deepseek_v4": Case(
        mxfp4.DeepSeekV4Mxfp4MoEKernelOracle,
        "MARLIN",
        "kMxfp4Static",
        given=SCALES,
        conversion="w2_weight_scale=w2_scale layer=layer",
    ),
    "nvfp4": Case(
        nvfp4.NvFp4MoEKernelOracle,
        "MARLIN",
        "kNvfp4Static",
        given=f"{SCALES} w13_scale_2 w2_scale_2 a13_scale_2 a2_scale_2",
        conversion="a13_scale=a13_scale_2 w2_scale_2=w2_scale_2 w13_scale=w13_scale",
        config={"use_a16": False},
    ),
    "w4a8": Case(
        w4a8.W4A8MoEKernelOracle,
        "CUTLASS",
        "kInt4Static",
        given=f"{SCALES} group_size",
        conversion="w13_weight_scale=w13_scale group_size=group_size layer=layer",
    ),
    "w4a8_int8": Case(
        w4a8_int8.W4A8Int8MoEKernelOracle,
        "CPU_INT4",
        "kInt4W4A8StaticGroup32Sym",
        "arm",
        given="w13_scale w2_scale w13_bias w2_bias",
        conversion="w2_weight_scale=w2_scale w13_bias=w13_bias",
        config={"block_shape": [1, 32]},
    ),
}


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("name", CASES)
def test_vllm_converts_describes_and_builds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # This package has the class itself, so that it takes a registration to get vLLM's.
    theirs = f"{PACKAGE}.experts.cpu_int4_moe:CPUExpertsInt4"
    monkeypatch.setitem(registry._registered, "CPUExpertsInt4", theirs)
    case, functions = CASES[name], FUNCTIONS[name]
    oracle = case.oracle(case.machine)
    backend = oracle.backend_enum_cls()[case.backend]
    given = {parameter: torch.empty(1) for parameter in case.given.split()}
    sent = given | {"w13": torch.empty(2, 4, 2), "w2": torch.empty(2, 2, 2)}

    activation_key = NAMED_KEYS["kFp8DynamicTokenSym"]
    weights = oracle.convert_to_kernel_format(
        backend,
        MOE_CONFIG,
        sent["w13"],
        sent["w2"],
        weight_key=None if case.key is None else NAMED_KEYS[case.key],
        activation_key=activation_key,
        **given,
    )
    call = called(functions.convert)
    for parameter, _, ours in (pair.partition("=") for pair in case.conversion.split()):
        assert call[parameter] is sent[ours], parameter
    result = weights._asdict() | weights.others
    for ours, value in zip(functions.converted, call["returned"], strict=True):
        assert result[ours] is value, ours
    for member in (value for parameter, value in call.items() if parameter.endswith("backend")):
        assert type(member).__module__ == f"{PACKAGE}.{functions.backends}"
        assert member.name == case.backend

    biases = {} if "w13_bias" in given else {"w13_bias": torch.empty(1)}
    takes_biases = name not in ("nvfp4", "w4a8", "w4a8_int8")
    config = oracle.make_quant_config(
        backend, weights, activation_key, **biases if takes_biases else {}
    )
    call = called(functions.make_quant_config)
    assert config is call["returned"]
    assert {parameter: call[parameter] for parameter in case.config} == case.config
    assert call.get("w1_scale", weights.w13_scale) is weights.w13_scale
    assert call.get("layer") is (given.get("layer") if "layer" in call else None)
    if takes_biases:
        assert call["w1_bias"] is biases.get("w13_bias", weights.others.get("w13_bias"))

    experts = oracle.backend_to_kernel_cls(backend)[0]
    made = {n: weights.others[n] for n in ("b_strides1", "b_strides2", "group_size") if n in result}
    kernel = oracle.make_kernel(config, MOE_CONFIG, backend, experts, ("tables",), **made)
    call = called(functions.make_kernel)
    assert kernel is call["returned"]
    assert call["experts_cls"] is experts
    assert config in (call.get("moe_quant_config"), call.get("quant_config"))
    assert call["routing_tables"] == ("tables",)
    assert made.items() <= call.items()


@pytest.mark.usefixtures("vllm")
def test_interleaved_rows_have_a_conversion_of_their_own() -> None:
    config = SimpleNamespace(activation=SimpleNamespace(value="swigluoai"), is_act_and_mul=True)
    oracle: Any = mxfp4.Mxfp4MoEKernelOracle("h100")
    arguments = {"w13_scale": torch.empty(1), "w2_scale": torch.empty(1), "layer": LAYER}
    oracle.convert_to_kernel_format(
        *(mxfp4.Mxfp4MoeBackend.MARLIN, config, torch.empty(1), torch.empty(1)), **arguments
    )
    call = called("oracle.mxfp4:convert_gpt_oss_weight_to_mxfp4_moe_kernel_format")
    assert call["_cache_permute_indices"] == {}


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": None}, None),
        ({}, r"convert_to_fp8_moe_kernel_format needs layer, which was not given"),
        ({"layer": LAYER, "w13_bias": 1}, r"convert_to_fp8_moe_kernel_format takes no w13_bias"),
        ({"layer": LAYER, "w13_input_scales": 1}, r"takes no .*did you mean 'w13_input_scale'"),
    ],
)
def test_arguments_that_vllm_lacks_or_does_not_take(
    changes: dict[str, Any], message: str | None
) -> None:
    oracle: Any = fp8.Fp8MoEKernelOracle("h100")

    def convert() -> Any:
        weights = (torch.empty(1), torch.empty(1))
        return oracle.convert_to_kernel_format(
            fp8.Fp8MoeBackend.MARLIN, MOE_CONFIG, *weights, **changes
        )

    if message is None:
        assert convert().w13 is called("oracle.fp8:convert_to_fp8_moe_kernel_format")["returned"][0]
    else:
        with pytest.raises(ValueError, match=message):
            convert()


@pytest.mark.usefixtures("vllm")
def test_vllm_takes_its_own_moe_config() -> None:
    ours = FusedMoEConfig(num_experts=2, experts_per_token=1, hidden_dim=8, intermediate_size=4)
    oracle = unquantized.UnquantizedMoEKernelOracle("h100")
    with pytest.raises(TypeError, match=r"vLLM take its own FusedMoEConfig .* got moe_rules"):
        oracle.convert_to_kernel_format(
            unquantized.UnquantizedMoeBackend.FLASHINFER_CUTLASS,
            ours,
            torch.empty(1),
            torch.empty(1),
        )


def test_without_vllm_the_backend_and_the_package_are_named() -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    oracle: Any = fp8.Fp8MoEKernelOracle("h100")
    message = (
        "backend MARLIN of oracle 'fp8': kernel MarlinExperts: .*not installed; pip install vllm"
    )
    with pytest.raises(ImportError, match=message):
        oracle.convert_to_kernel_format(
            fp8.Fp8MoeBackend.MARLIN, MOE_CONFIG, torch.empty(1), torch.empty(1)
        )
    with pytest.raises(ImportError, match=message):
        oracle.make_quant_config(fp8.Fp8MoeBackend.MARLIN)


def test_a_backend_without_kernels_is_named() -> None:
    oracle: Any = unquantized.UnquantizedMoEKernelOracle("tpu")
    with pytest.raises(ValueError, match="backend TPU of oracle 'unquantized' has no kernels"):
        oracle.make_quant_config(unquantized.UnquantizedMoeBackend.TPU)


def test_our_kernels_take_no_arguments_of_others() -> None:
    config = FusedMoEConfig(num_experts=2, experts_per_token=1, hidden_dim=8, intermediate_size=4)
    oracle: Any = unquantized.UnquantizedMoEKernelOracle("x86")
    backend = unquantized.UnquantizedMoeBackend.CPU
    experts = registry.resolve("CPUUnquantizedExperts")
    w13, w2 = torch.empty(2, 8, 8), torch.empty(2, 8, 4)
    with pytest.raises(ValueError, match="CPUUnquantizedExperts takes no layer"):
        oracle.convert_to_kernel_format(backend, config, w13, w2, layer=LAYER)
    with pytest.raises(ValueError, match="takes no routing_tables"):
        oracle.make_kernel(oracle.make_quant_config(backend), config, backend, experts, ("tables",))
