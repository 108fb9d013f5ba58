"""The overlay leaves to each platform what can run: kernels of this package."""

import pytest
from moe_kernels.registry import our_names

from moe_rules import NAMED_KEYS, FusedMoEConfig, select_backend
from moe_rules.integrations.transformers.serving import OVERLAY
from moe_rules.selectors.errors import SelectionError
from moe_rules.vocabulary.facts import ACTIVATIONS
from moe_rules.vocabulary.quant_keys import QuantKey, Scale

FP8 = (
    (NAMED_KEYS["kFp8Static128BlockSym"], NAMED_KEYS["kFp8Dynamic128Sym"]),
    (NAMED_KEYS["kFp8StaticChannelSym"], NAMED_KEYS["kFp8DynamicTokenSym"]),
)


def select(oracle, machine, *keys, **fields):
    layer = FusedMoEConfig(8, 2, 256, 128, routing_method="Unspecified", **fields)
    return select_backend(oracle, layer, *keys, machine=machine, rules=[OVERLAY], environ={})


@pytest.mark.parametrize("machine", ["a100", "h100", "b200", "mi300x", "xpu", "cpu"])
def test_unquantized_layers(machine):
    assert select("unquantized", machine).kernel in our_names()


@pytest.mark.parametrize("machine", ["h100", "b200", "mi300x", "cpu"])
@pytest.mark.parametrize("keys", FP8, ids=str)
def test_fp8_layers(machine, keys):
    assert select("fp8", machine, *keys).kernel in our_names()


@pytest.mark.parametrize("machine", ["h100", "b200", "cpu"])
@pytest.mark.parametrize("block", [(64, 32), (32, 64)])
def test_fp8_blocks_of_other_sizes(machine, block):
    weight = QuantKey("fp8_e4m3", Scale("fp32", True, block))
    activation = QuantKey("fp8_e4m3", Scale("fp32", False, (1, block[1])))
    assert select("fp8", machine, weight, activation).kernel in our_names()


def test_no_gpu_without_fp8_is_given_such_layers():
    with pytest.raises(SelectionError, match="compute_capability"):
        select("fp8", "a100", *FP8[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_on_cpus(activation):
    fields = {"activation": activation, "activation_situ_beta": 1.0, "has_bias": True}
    assert select("unquantized", "cpu", **fields).kernel == "CPUUnquantizedExperts"
