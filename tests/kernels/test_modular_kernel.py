"""What apply says of arguments that do not fit, and which parts fit together."""

import re
from dataclasses import replace

import pytest
import torch
from computed_pairs import FP8_BLOCK, INT8_TOKEN, NUM_EXPERTS, Scheme, make
from moe_kernels.modular_kernel import FusedMoEActivationFormat, FusedMoEKernel
from moe_kernels.prepare_finalize.no_ep import MoEPrepareAndFinalizeNoEP
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

CONFIG = FusedMoEConfig(4, 2, 16, 8)
LAYER = random_layer(CONFIG, num_tokens=3)

WRONG = {
    "hidden size": (
        {"hidden_states": torch.zeros(3, 15)},
        r"shape \[3, 15\] need w13 of shape \[num_experts, rows, 15\]",
    ),
    "dimensions": ({"w13": torch.zeros(4, 16)}, r"w13 must have 3 dimensions, got shape \[4, 16\]"),
    "w2 shape": ({"w2": torch.zeros(4, 16, 9)}, r"needs w2 of shape \[4, 16, 8\]"),
    "gate": ({"activation": "silu_no_mul"}, r"needs w2 of shape \[4, 16, 16\], got \[4, 16, 8\]"),
    "activation": ({"activation": "swish"}, "unknown activation 'swish'; expected one of silu"),
    "ids dtype": ({"topk_ids": torch.zeros(3, 2)}, "topk_ids must be int32 or int64"),
    "ids shape": ({"topk_ids": torch.zeros(2, 2, dtype=torch.int32)}, r"must both be \[3, topk\]"),
    "weights dtype": ({"topk_weights": torch.zeros(3, 2, dtype=torch.int32)}, "must be floating"),
    "global experts": ({"global_num_experts": 8}, "global_num_experts must be 4, got 8"),
    "map": ({"expert_map": torch.zeros(5, dtype=torch.int32)}, r"int32 of shape \[4\]"),
    "device": ({"w2": torch.zeros(4, 16, 8, device="meta")}, "w2 is on meta"),
    "weights on input": ({"apply_router_weight_on_input": True}, "needs topk 1, got 2"),
    "dtype": ({"hidden_states": torch.zeros(3, 16)}, "needs torch.float32 weights here, got w13"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case):
    changes, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        bind("CPUUnquantizedExperts", CONFIG).apply(**LAYER.arguments() | changes)


SCHEMES = [
    Scheme("CPUUnquantizedExperts", in_dtype="fp32"),
    Scheme("CPUExpertsInt8", *INT8_TOKEN),
    Scheme("CPUExpertsInt4", "kInt4Static", group_size=32),
    Scheme("CPUExpertsFp8", *FP8_BLOCK),
    Scheme("TritonExperts", in_dtype="fp32"),
    Scheme("TritonExperts", *INT8_TOKEN),
    Scheme("TritonWNA16Experts", "kInt4Static", group_size=32),
    Scheme("OAITritonExperts", "kMxfp4Static"),
    Scheme("Nvfp4QuantizationEmulationTritonExperts", "kNvfp4Static", "kNvfp4Dynamic"),
]


@pytest.mark.parametrize("field", ["bias", "scale", "scale_2"])
@pytest.mark.parametrize("weight", ["w13", "w2"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_scales_and_biases_fit_their_weights(scheme, weight, field):
    """Kernels read as much as there has to be, wherever that is."""
    pytest.importorskip("triton")
    layer, arguments, kernel = make(scheme, 5, "cpu", expert_map=False)
    config, name = kernel.experts.quant_config, f"{weight}_{field}"
    bias = torch.zeros(layer.w13.shape[:2] if weight == "w13" else (NUM_EXPERTS, 128))
    right = bias if field == "bias" else getattr(config, name)
    if right is None:
        pytest.skip("weights of this format have none")
    wrong = [right[:2]]
    if right.dim() > 1:
        wrong.append(right.narrow(2 if right.dim() == 4 else 1, 0, 1))
    wrong = [tensor for tensor in wrong if tensor.shape != right.shape]
    for tensor in wrong:
        other = bind(scheme.kernel, layer.moe_config, replace(config, **{name: tensor}))
        message = re.escape(f"{name} must be {list(right.shape)}")
        with pytest.raises(ValueError, match=message):
            other.apply(**arguments)
    as_is = bind(scheme.kernel, layer.moe_config, replace(config, **{name: right}))
    strided = torch.stack([right, right], -1)[..., 0]
    other = bind(scheme.kernel, layer.moe_config, replace(config, **{name: strided}))
    error = relative_error(other.apply(**arguments), as_is.apply(**arguments).double())
    assert error <= layer.error_bound(kernel)


@pytest.mark.parametrize("kernel", ["TritonExperts", "TritonWNA16Experts"])
def test_triton_takes_tokens_in_the_layers_dtype(kernel):
    pytest.importorskip("triton")
    scheme = next(scheme for scheme in SCHEMES if scheme.kernel == kernel)
    layer, arguments, bound = make(scheme, 5, "cpu", expert_map=False)
    other = torch.bfloat16
    tokens = {"hidden_states": layer.hidden_states.to(other)}
    with pytest.raises(ValueError, match=f"tokens .*got .* tokens {other}"):
        bound.apply(**arguments | tokens)
    if layer.quant_config.weight_key is None:
        weights = {"w13": layer.w13.to(other), "w2": layer.w2.to(other)}
        with pytest.raises(ValueError, match=f"needs torch.float32 weights .*got w13 {other}"):
            bound.apply(**arguments | tokens | weights)


@pytest.mark.parametrize("kernel", ["CPUUnquantizedExperts", "TritonExperts"])
def test_tokens_without_any_pair_get_zeros(kernel):
    pytest.importorskip("triton")
    scheme = next(scheme for scheme in SCHEMES if scheme.kernel == kernel)
    _, arguments, bound = make(scheme, 5, "cpu", expert_map=False)
    none = {name: arguments[name][:, :0] for name in ("topk_ids", "topk_weights")}
    assert not bound.apply(**arguments | none).any()


def test_formats_must_agree():
    class Batched(MoEPrepareAndFinalizeNoEP):
        activation_format = FusedMoEActivationFormat.BatchedExperts

    experts = bind("CPUUnquantizedExperts", CONFIG).experts
    with pytest.raises(ValueError, match="gives tokens in the batched_experts format"):
        FusedMoEKernel(Batched(), experts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight_key": NAMED_KEYS["kFp8StaticTensorSym"]}, "w13_scale is None"),
        ({"w13_scale": torch.ones(4)}, "w13_scale is given, but weight key None"),
        (
            {
                "weight_key": NAMED_KEYS["kFp8StaticTensorSym"],
                "w13_scale": torch.ones(4).half(),
                "w2_scale": torch.ones(4),
            },
            "w13_scale must be float32, got torch.float16",
        ),
        (
            {"activation_key": NAMED_KEYS["kFp8StaticTensorSym"], "a13_scale": torch.ones(4)}
            | {"a2_scale": torch.ones(1)},
            r"a13_scale must be one element, for all experts, got shape \[4\]",
        ),
    ],
)
def test_quant_config_needs_the_scales_its_keys_name(fields, message):
    with pytest.raises(ValueError, match=message):
        FusedMoEQuantConfig(**fields)


@pytest.mark.parametrize(
    ("activation", "message"),
    [("swigluoai_uninterleave", "needs swiglu_limit"), ("situ", "needs activation_situ_beta")],
)
def test_activations_need_their_constants(activation, message):
    config = FusedMoEConfig(4, 2, 16, 8, activation)
    with pytest.raises(ValueError, match=message):
        bind("CPUUnquantizedExperts", config).apply(
            **LAYER.arguments() | {"activation": activation}
        )


def test_a_model_routes_in_its_own_way():
    key = NAMED_KEYS["kInt4Static"]
    config = FusedMoEConfig(4, 2, 64, 64, routing_method="Custom")
    layer = random_layer(config, key, num_tokens=3, group_size=32)
    kernel = bind("ZentorchExpertsInt4", config, layer.quant_config)
    logits = torch.randn(3, 4)

    def least_likely(hidden_states, router_logits, top_k):
        assert hidden_states is layer.hidden_states
        lowest, ids = router_logits.topk(top_k, dim=1, largest=False)
        return lowest.sigmoid(), ids

    arguments = layer.arguments()
    weights, ids = least_likely(layer.hidden_states, logits, 2)
    expected = kernel.apply(**arguments | {"topk_weights": weights, "topk_ids": ids})
    del arguments["topk_weights"], arguments["topk_ids"]
    arguments["router_logits"] = logits
    output = kernel.apply_monolithic(**arguments, custom_routing_function=least_likely)
    assert torch.equal(output, expected)
    with pytest.raises(ValueError, match="Custom takes a custom_routing_function, got None"):
        kernel.apply_monolithic(**arguments)
    plain = bind("ZentorchExpertsInt4", FusedMoEConfig(4, 2, 64, 64), layer.quant_config)
    with pytest.raises(ValueError, match="method Default takes no custom_routing_function"):
        plain.apply_monolithic(**arguments, custom_routing_function=least_likely)
