"""FP8 experts of transformers: blocks, whole matrices, scales in e8m0."""

from types import SimpleNamespace

import pytest
import torch
from moe_kernels.reference import relative_error
from moe_kernels.testing import random_layer
from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS, FP8Experts
from transformers.integrations.moe import use_experts_implementation

from moe_rules.integrations.transformers.packed import SERVING
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey, Scale

EXPERTS, TOP_K = 6, 2
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def fp8_keys(block):
    if block is None:
        return NAMED_KEYS["kFp8StaticChannelSym"], NAMED_KEYS["kFp8DynamicTokenSym"]
    return (
        QuantKey("fp8_e4m3", Scale("fp32", True, block)),
        QuantKey("fp8_e4m3", Scale("fp32", False, (1, block[1]))),
    )


def fp8_module(block, hidden, intermediate, **kwargs):
    """A module as the FP8 quantizer of transformers puts it into a model, without values."""

    class Experts(FP8Experts):
        """The decorator changes the class that it is given."""

    config = SimpleNamespace(
        hidden_size=hidden,
        num_experts=EXPERTS,
        moe_intermediate_size=intermediate,
        hidden_act="silu",
        _experts_implementation="moe_rules",
    )
    decorate = use_experts_implementation(experts_interface=ALL_FP8_EXPERTS_FUNCTIONS)
    return decorate(Experts)(config, block_size=block, **kwargs).requires_grad_(False)


def fill(module, layer, block):
    """Give the module the weights of a random layer."""
    module.gate_up_proj.data, module.down_proj.data = layer.w13, layer.w2
    scales = layer.quant_config.w13_scale, layer.quant_config.w2_scale
    for name, scale in zip(("gate_up_proj", "down_proj"), scales, strict=True):
        parameter = getattr(module, f"{name}_scale_inv")
        parameter.data = parameter.data.to(scale.device)
        parameter.data.copy_(scale)


def layer_of(block, hidden, intermediate, dtype="bf16", device="cpu"):
    config = FusedMoEConfig(EXPERTS, TOP_K, hidden, intermediate, in_dtype=dtype)
    return random_layer(config, *fp8_keys(block), num_tokens=33, device=device)


def computed(module, layer):
    with torch.no_grad():
        return module(layer.hidden_states, layer.topk_ids.long(), layer.topk_weights)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(
    ("block", "hidden", "intermediate"),
    [((128, 128), 256, 128), ((128, 128), 256, 192), ((64, 32), 96, 64)],
)
def test_blocks(block, hidden, intermediate, dtype, device, log):
    layer = layer_of(block, hidden, intermediate, dtype, device)
    module = fp8_module(block, hidden, intermediate)
    fill(module, layer, block)
    output = computed(module, layer)
    kernel = getattr(module, SERVING).kernel
    assert output.dtype == layer.hidden_states.dtype
    assert relative_error(output, layer.reference(kernel)) <= layer.error_bound(kernel)
    assert "fp8 layer (6 experts of" in log.text


@pytest.mark.parametrize("device", DEVICES)
def test_a_scale_for_gate_and_one_for_up(device):
    layer = layer_of(None, 64, 48, device=device)
    scale13, scale2 = layer.quant_config.w13_scale, layer.quant_config.w2_scale
    for shard in range(2):  # the reference has scales by row: of these, all are the same
        scale13[:, shard * 48 : (shard + 1) * 48] = scale13[:, shard * 48 : shard * 48 + 1].clone()
    scale2[:] = scale2[:, :1].clone()
    module = fp8_module(None, 64, 48)
    module.gate_up_proj.data, module.down_proj.data = layer.w13, layer.w2
    module.gate_up_proj_scale_inv.data = scale13[:, [0, 48]].clone()
    module.down_proj_scale_inv.data = scale2[:, :1].clone()
    output = computed(module, layer)
    kernel = getattr(module, SERVING).kernel
    assert relative_error(output, layer.reference(kernel)) <= layer.error_bound(kernel)


def test_scales_in_e8m0_and_other_ones_that_are_loaded():
    block = (128, 128)
    layer = layer_of(block, 256, 128)
    for scale in (layer.quant_config.w13_scale, layer.quant_config.w2_scale):
        scale.copy_(torch.exp2(scale.log2().round()))
    module = fp8_module(block, 256, 128, scale_fmt="ue8m0")
    fill(module, layer, block)
    first = computed(module, layer)
    kernel = getattr(module, SERVING).kernel
    assert relative_error(first, layer.reference(kernel)) <= layer.error_bound(kernel)
    state = module.state_dict()
    state["down_proj_scale_inv"] = (2 * state["down_proj_scale_inv"].float()).to(
        torch.float8_e8m0fnu
    )
    module.load_state_dict(state)
    torch.testing.assert_close(computed(module, layer), 2 * first)


def test_blocks_that_gate_and_up_do_not_share_are_left_to_transformers(log):
    """One block covers both, and the module has a scale for each."""
    module = fp8_module((128, 128), 256, 64)
    assert module.gate_up_proj_scale_inv.shape[1] == 2
    with pytest.raises(Exception):  # noqa: B017, PT011 - transformers' own needs a GPU
        computed(module, layer_of((128, 128), 256, 64))
    assert "need [1, 2] scales for blocks of [128, 128], and have [2, 2]" in log.text


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"activation_scheme": "static"}, "its activations have a static scale for each expert"),
        ({"scale_fmt": "ue8m0", "expert_dtype": "fp4"}, "its weights are quantized as torch.int8"),
    ],
)
def test_what_is_not_served_is_said(kwargs, reason, log):
    layer = layer_of((128, 128), 256, 128)
    try:
        module = fp8_module((128, 128), 256, 128, **kwargs)
    except TypeError as error:
        pytest.skip(f"this version of transformers has none: {error}")
    with pytest.raises(Exception):  # noqa: B017, PT011 - transformers' own needs a GPU
        computed(module, layer)
    assert reason in log.text
