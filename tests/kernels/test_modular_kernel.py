"""What apply says of arguments that do not fit, and which parts fit together."""

import pytest
import torch
from moe_kernels.modular_kernel import FusedMoEActivationFormat, FusedMoEKernel
from moe_kernels.prepare_finalize.no_ep import MoEPrepareAndFinalizeNoEP
from moe_kernels.quant_config import FusedMoEQuantConfig
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
