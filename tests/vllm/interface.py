"""The oracles' interface, given vLLM's objects. Run by ``test_oracles.py``, in its own process.

The process simulates a B200: vLLM cannot be simulated twice in one.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moe_rules.oracles import backends as our_backends
from moe_rules.oracles import fp8, int8, mxfp4, nvfp4, unquantized, w4a8
from moe_rules.oracles.base import MoEKernelOracle
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tests.vllm.parity import ORACLES, machine, oracle_classes, read_cases
from tools.record import simulation

SAMPLE = Path(__file__).parents[1] / "samples" / "dev" / "cuda-sm100.jsonl.gz"
CASES = read_cases([SAMPLE])
SOFTWARE = max((case["software"] for case in CASES), key=lambda world: sum(world.values()))
WORLD = simulation.start(CASES[0]["platform"])
WORLD.set(SOFTWARE)
MACHINE = machine(CASES[0]["platform"], SOFTWARE)

objects = importlib.import_module("tools.record.objects")
quant_utils = objects.quant_utils
BLOCK = (quant_utils.kFp8Static128BlockSym, quant_utils.kFp8Dynamic128Sym)
OURS = FusedMoEConfig(num_experts=8, experts_per_token=2, hidden_dim=256, intermediate_size=256)


def theirs(module: str) -> Any:
    return importlib.import_module(f"{ORACLES}.{module}")


def layer(**changes: Any) -> Any:
    """vLLM's layer of an ordinary recorded case, changed."""
    case = next(c for c in CASES if c["oracle"] == "fp8" and c["moe"]["moe_backend"] == "auto")
    parallel = {**dict.fromkeys(case["moe"]["parallel"], 1), "all2all_backend": "naive"}
    parallel |= {"use_ep": False, "enable_eplb": False}
    return objects.layer({**case["moe"], "parallel": parallel, "activation": "silu", **changes})


@pytest.fixture(autouse=True)
def on_the_simulated_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_rules.oracles.base.this_machine", lambda: MACHINE)


def test_everything_that_vllms_callers_import_is_here() -> None:
    package = Path(importlib.util.find_spec("vllm").submodule_search_locations[0])
    names = set()
    for path in package.rglob("*.py"):
        source = path.read_text()
        if "fused_moe.oracle." in source and path.parent.name != "oracle":
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.ImportFrom) and "fused_moe.oracle." in str(node.module):
                    module = str(node.module).rpartition(".")[2]
                    names |= {(module, alias.name) for alias in node.names}
    assert len(names) == 48
    for module, name in names:
        assert hasattr(importlib.import_module(f"moe_rules.oracles.{module}"), name), (module, name)


@pytest.mark.parametrize("name", sorted(objects.SELECTORS))
def test_classes_of_a_backend_are_vllms_own(name: str) -> None:
    oracle = oracle_classes(MoEKernelOracle)[name](MACHINE)
    module = theirs(objects.SELECTORS[name].partition(":")[0])
    classes = getattr(module, "_mxfp8_backend_to_kernel_cls", None) or module.backend_to_kernel_cls
    enum = getattr(theirs("fp8") if name == "mxfp8" else module, oracle.backend_enum_cls().__name__)
    declared = oracle.vllm.selector().rules.oracles[name].backends
    compared = 0
    for backend in enum:
        if backend.name in declared and declared[backend.name].choices:
            assert oracle.backend_to_kernel_cls(backend) == classes(backend), backend
            compared += 1
    assert compared or name == "w4a8_int8"


@pytest.mark.parametrize("activation", ["silu", "swigluoai"])
@pytest.mark.parametrize("dp_size", [1, 4])
@pytest.mark.parametrize("moe_backend", ["auto", "triton"])
def test_the_order_of_backends_is_vllms(activation: str, dp_size: int, moe_backend: str) -> None:
    config = layer(activation=activation, moe_backend=moe_backend)
    config.moe_parallel_config.dp_size = dp_size
    order = unquantized.UnquantizedMoEKernelOracle(MACHINE).get_priority_backends(config)
    assert order == theirs("unquantized").UnquantizedMoEKernelOracle().get_priority_backends(config)


def test_a_layer_has_two_names_and_one_is_given() -> None:
    config = layer()
    selected = fp8.select_fp8_moe_backend(
        config=config, weight_key=BLOCK[0], activation_key=BLOCK[1]
    )
    assert selected == fp8.select_fp8_moe_backend(
        moe_config=config, weight_key=BLOCK[0], activation_key=BLOCK[1]
    )
    assert selected == theirs("fp8").select_fp8_moe_backend(config, *BLOCK)
    with pytest.raises(TypeError, match="got both config and moe_config"):
        fp8.select_fp8_moe_backend(config, *BLOCK, moe_config=config)
    with pytest.raises(TypeError, match="got neither"):
        unquantized.select_unquantized_moe_backend()


@pytest.mark.parametrize(("ours", "name"), [(int8, "int8"), (w4a8, "w4a8")])
def test_keys_that_are_not_named_are_vllms_defaults(ours: Any, name: str) -> None:
    select = getattr(ours, f"select_{name}_moe_backend")
    named = {"moe_backend": "humming"}
    expected = getattr(theirs(name), f"select_{name}_moe_backend")(layer(**named))
    assert select(layer(**named)) == expected


def test_an_answer_follows_a_layer_that_changes() -> None:
    config = layer()
    first = fp8.select_fp8_moe_backend(config, *BLOCK)
    config.moe_backend = "triton"
    second = fp8.select_fp8_moe_backend(config, *BLOCK)
    assert (first[0].name, second[0].name) == ("FLASHINFER_TRTLLM", "TRITON")
    config.moe_backend = "hpc"
    with pytest.raises(ValueError, match=r"HPCExperts:\n +\[device\] compute_capability is 10.0"):
        fp8.select_fp8_moe_backend(config, *BLOCK)


def test_an_answer_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = layer()
    first = fp8.select_fp8_moe_backend(config, *BLOCK)
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    assert fp8.select_fp8_moe_backend(config, *BLOCK) != first
    assert fp8.select_fp8_moe_backend(config, *BLOCK) == theirs("fp8").select_fp8_moe_backend(
        config, *BLOCK
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: (OURS, *BLOCK), r"moe_rules\S+FusedMoEConfig does not go with vllm\S+QuantKey"),
        (lambda: (layer(), NAMED_KEYS["kFp8Static128BlockSym"]), r"vllm\S+ does not go with moe_"),
        (lambda: (SimpleNamespace(num_experts=8),), r"FusedMoEConfig, got types.SimpleNamespace"),
        (lambda: (layer(), "kFp8Static128BlockSym"), r"a quantization key is .*, got str"),
        (lambda: (None,), r"got neither"),
    ],
    ids=["vLLM's keys", "our key", "another layer", "a name", "nothing"],
)
def test_what_is_of_neither_or_of_both_is_never_answered(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fp8.select_fp8_moe_backend(*arguments())


def test_a_checkpoint_of_another_class_is_not_answered() -> None:
    from moe_rules.oracles.int_wna16 import select_wna16_moe_backend

    with pytest.raises(TypeError, match=r"one of vLLM's QuantizationArgs, .*got dict"):
        select_wna16_moe_backend(layer(), quant_utils.kInt4Static, {"bits": 4})
    with pytest.raises(TypeError, match="quant_config is for a layer of vLLM's"):
        select_wna16_moe_backend(OURS, NAMED_KEYS["kInt4Static"], {"bits": 4})


def test_a_kernel_of_ours_does_not_take_vllms_configurations() -> None:
    from moe_kernels.registry import resolve

    oracle = unquantized.UnquantizedMoEKernelOracle(MACHINE)
    triton = theirs("unquantized").UnquantizedMoeBackend.TRITON
    experts = resolve("TritonExperts", provider="moe_kernels")
    with pytest.raises(TypeError, match=r"moe_kernels runs in vLLM through moe_rules.integrations"):
        oracle.make_kernel(None, layer(), triton, experts)
    theirs_cls = resolve("TritonExperts", provider="vllm")
    with pytest.raises(TypeError, match="does not go with moe_rules"):
        oracle.make_kernel(None, OURS, triton, theirs_cls)


def test_a_provider_can_be_asked_for() -> None:
    backend = our_backends.UnquantizedMoeBackend.TRITON
    by_order = unquantized.UnquantizedMoEKernelOracle(MACHINE)
    by_name = unquantized.UnquantizedMoEKernelOracle(MACHINE, provider="vllm")
    ours, vllms = (o.backend_to_kernel_cls(backend)[0] for o in (by_order, by_name))
    assert ours.__module__.startswith("moe_kernels.")
    assert vllms.__module__.startswith("vllm.")
    assert by_order.select_backend(layer(moe_backend="triton"))[1] is vllms


def test_functions_called_as_vllm_calls_them_are_vllms() -> None:
    w13, w2 = torch.ones(2, 8, 4), torch.ones(2, 4, 4)
    arguments = {"w13_weight": w13, "w2_weight": w2, "moe_config": layer(), "layer": None}
    backend = theirs("unquantized").UnquantizedMoeBackend.TRITON
    ours = unquantized.convert_to_unquantized_kernel_format(backend, **arguments)
    assert type(ours) is tuple
    assert ours[0] is w13
    quant_config = importlib.import_module("moe_rules.oracles.w4a8_int8")
    described = quant_config.make_w4a8_int8_moe_quant_config(block_shape=(-1, 1))
    assert tuple(described._w1.shape) == (-1, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "convert_to_fp8_moe_kernel_format needs layer, which was not given"),
        ({"layer": 1, "w13_bias": 1}, "convert_to_fp8_moe_kernel_format takes no w13_bias"),
        ({"layer": 1, "w13_input_scales": 1}, "takes no .*did you mean 'w13_input_scale'"),
    ],
)
def test_arguments_that_vllm_lacks_or_does_not_take(given: Any, message: str) -> None:
    oracle: Any = fp8.Fp8MoEKernelOracle(MACHINE)
    marlin = theirs("fp8").Fp8MoeBackend.MARLIN
    with pytest.raises(ValueError, match=message):
        oracle.convert_to_kernel_format(marlin, layer(), torch.ones(1), torch.ones(1), **given)


def test_experts_that_process_their_layer_are_given_it() -> None:
    oracle = nvfp4.NvFp4MoEKernelOracle(MACHINE)
    backend = theirs("nvfp4").NvFp4MoeBackend.VLLM_CUTLASS
    experts = oracle.backend_to_kernel_cls(backend)[0]
    scale = torch.ones(2)
    config = SimpleNamespace(g1_alphas=scale)
    with pytest.raises(ValueError, match="make_kernel needs layer"):
        oracle.make_kernel(config, layer(), backend, experts)
    other = SimpleNamespace(w13_weight_scale_2=torch.ones(2))
    with pytest.raises(ValueError, match="g1_alphas of quant_config is another tensor"):
        oracle.make_kernel(config, layer(), backend, experts, layer=other)


def test_a_conversion_that_depends_on_the_quantization_method_asks_for_it() -> None:
    oracle = mxfp4.Mxfp4MoEKernelOracle(MACHINE)
    backend = theirs("mxfp4").Mxfp4MoeBackend.MARLIN
    weights = (torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="depends on quantization_method, got None; expected one"):
        oracle.convert_to_kernel_format(backend, layer(), *weights)
    with pytest.raises(ValueError, match="did you mean 'quark'"):
        oracle.convert_to_kernel_format(backend, layer(), *weights, quantization_method="quarc")


def test_groups_of_backends_hold_vllms_members() -> None:
    enum = theirs("mxfp4").Mxfp4MoeBackend
    for name in ("TRITON_BACKENDS", "B12X_BACKENDS", "FLASHINFER_MOE_EP_MXFP4_BACKENDS"):
        expected = getattr(theirs("mxfp4"), name)
        assert {m for m in enum if m in getattr(mxfp4, name)} == set(expected)
    for member in theirs("nvfp4").NvFp4MoeBackend:
        expected = theirs("nvfp4").is_global_sf_supported_for_nvfp4_backend(member)
        assert nvfp4.is_global_sf_supported_for_nvfp4_backend(member) == expected


def test_sizes_and_shapes_are_vllms() -> None:
    sizes = mxfp4.mxfp4_round_up_hidden_size_and_intermediate_size
    assert sizes(our_backends.Mxfp4MoeBackend.MARLIN, 100, 100) == (256, 128)
    assert unquantized.unquantized_round_up_hidden_size_and_intermediate_size(
        theirs("unquantized").UnquantizedMoeBackend.FLASHINFER_TRTLLM, 100, 100
    ) == (100, 128)
    config = dataclasses.replace(layer(intermediate_size=192, hidden_dim=256))
    shapes = fp8.resolve_fp8_moe_weight_block_shape(config, [128, 128], BLOCK[1], False)
    expected = theirs("fp8").resolve_fp8_moe_weight_block_shape(config, [128, 128], BLOCK[1], False)
    assert shapes == expected
    with pytest.raises(TypeError, match="its own FusedMoEConfig"):
        fp8.resolve_fp8_moe_weight_block_shape(OURS, [128, 128], None, False)
