"""Any layer is computed as the reference does: every choice that a call has, at once."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from computed_pairs import SCHEMES, Scheme, cpu
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from moe_kernels.activation import activation_parameters
from moe_kernels.benchmark.peers import converted
from moe_kernels.cpu.packed_weights import stands_for_packed
from moe_kernels.reference import reference_moe, relative_error
from moe_kernels.registry import runs_on_cpu
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.facts import ACTIVATIONS
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

ON_CPU = [scheme for scheme in SCHEMES if runs_on_cpu(scheme.kernel)]
ON_CPU += [
    cpu("CPUExpertsFp8", "kFp8StaticChannelSym"),
    cpu("CPUExpertsFp8", "kFp8StaticTensorSym"),
]
IN_TRITON = [s for s in SCHEMES if not (runs_on_cpu(s.kernel) or s.is_fp8_in_triton)]
CONSTANTS = {"swiglu_limit": 1.5, "activation_situ_beta": 1.3, "activation_situ_linear_beta": 2.0}
BOOL = st.booleans()


def strided(x):
    """The same values, none beside another in memory."""
    return torch.stack([x, torch.zeros_like(x)], -1)[..., 0]


def check(data, scheme: Scheme, dtypes, longest):
    def draw(strategy):
        return data.draw(strategy)

    num_experts = draw(st.integers(1, 6))
    top_k, num_tokens = draw(st.integers(1, 4)), draw(st.integers(0, longest))
    unit = draw(st.sampled_from([1, 2, 16, 32, 32]) if scheme.weight is None else st.just(32))
    hidden, intermediate = (unit * draw(st.integers(1, 96 // unit)) for _ in range(2))
    spread = draw(st.integers(0, 3)) if draw(BOOL) else None
    total = num_experts + (spread or 0)
    config = FusedMoEConfig(
        total,
        min(top_k, total),
        hidden,
        intermediate,
        draw(st.sampled_from(ACTIVATIONS)),
        in_dtype=draw(st.sampled_from(dtypes)),
        **CONSTANTS,
    )
    group = 32 if scheme.group_size else None
    keys = (key and NAMED_KEYS[key] for key in (scheme.weight, scheme.activation))
    seed = draw(st.integers(0, 99))
    layer = random_layer(config, *keys, num_tokens, seed=seed, bias=draw(BOOL), group_size=group)
    generator = torch.Generator().manual_seed(seed)
    if spread is not None:
        held = torch.randperm(total, generator=generator)[:num_experts]
        layer = layer.share(held.tolist(), config.moe_parallel_config)
    ids = torch.randint(-1, total + 1, layer.topk_ids.shape, generator=generator)
    layer = replace(layer, topk_ids=ids.to(draw(st.sampled_from([torch.int32, torch.int64]))))
    own = converted(layer, scheme.kernel)
    kernel = bind(scheme.kernel, config, own.quant_config, oracle=scheme.oracle)
    weighs_input = config.experts_per_token == 1 and draw(BOOL)
    arguments = layer.arguments() | {"w13": own.w13, "w2": own.w2}
    if draw(BOOL):
        names = {"hidden_states", "topk_weights", "topk_ids", "expert_map"}
        if scheme.weight is None and not stands_for_packed(own.w13):
            names |= {"w13", "w2"}
        arguments |= {
            name: strided(arguments[name]) for name in names if arguments[name] is not None
        }
    output = kernel.apply(**arguments, apply_router_weight_on_input=weighs_input)
    assert (output.shape, output.dtype) == (layer.hidden_states.shape, layer.hidden_states.dtype)
    assume(output.numel() > 0)
    expected = reference_moe(
        layer.hidden_states,
        layer.w13,
        layer.w2,
        layer.topk_weights,
        layer.topk_ids,
        activation=config.activation,
        parameters=activation_parameters(config.activation, config, layer.quant_config),
        quant_config=layer.quant_config,
        expert_map=layer.expert_map,
        apply_router_weight_on_input=weighs_input,
        quantize_activations=kernel.experts.quantizes_activations,
    )
    # With few numbers, roundings do not average.
    assert relative_error(output, expected) <= 3 * layer.error_bound(kernel)


@given(data=st.data(), scheme=st.sampled_from(ON_CPU))
@settings(max_examples=100, deadline=None)
def test_on_cpus(data, scheme):
    check(data, scheme, ["bf16", "fp16", "fp32"], 40)


@pytest.mark.skipif(torch.cuda.is_available(), reason="in the interpreter")
@given(data=st.data(), scheme=st.sampled_from(IN_TRITON))
@settings(max_examples=10, deadline=None)
def test_in_triton(data, scheme):
    check(data, scheme, ["fp16", "fp32"], 12)
