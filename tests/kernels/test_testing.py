"""Random layers: reproducible, and split between ranks as deployments are."""

import pytest
import torch
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS


def test_same_seed_same_layer():
    config = FusedMoEConfig(4, 2, 16, 8)
    one, same, other = (random_layer(config, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.w13, same.w13)
    assert torch.equal(one.topk_ids, same.topk_ids)
    assert not torch.equal(one.w13, other.w13)


def test_routing_is_to_different_experts_with_weights_that_sum_to_one():
    layer = random_layer(FusedMoEConfig(4, 3, 16, 8), num_tokens=50)
    assert all(len(set(ids)) == 3 for ids in layer.topk_ids.tolist())
    torch.testing.assert_close(layer.topk_weights.sum(dim=1), torch.ones(50))


def test_ranks_share_the_experts():
    parallel = FusedMoEParallelConfig(ep_size=2, use_ep=True)
    config = FusedMoEConfig(5, 2, 16, 8, moe_parallel_config=parallel)
    first, second = (random_layer(config, ep_rank=rank) for rank in (0, 1))
    assert first.expert_map.tolist() == [0, 1, 2, -1, -1]
    assert second.expert_map.tolist() == [-1, -1, -1, 0, 1]
    assert (first.w13.shape[0], second.w13.shape[0]) == (3, 2)


def test_keys_without_a_format_are_refused():
    with pytest.raises(ValueError, match="no format for quantization kFp8Static128BlockE8M0Sym"):
        random_layer(FusedMoEConfig(4, 2, 32, 32), NAMED_KEYS["kFp8Static128BlockE8M0Sym"])


def test_quantized_layers_have_what_their_keys_say():
    config = FusedMoEConfig(3, 2, 64, 32)
    layer = random_layer(config, NAMED_KEYS["kInt4StaticAsym"], group_size=16)
    assert layer.w13.shape == (3, 64, 32)
    assert layer.quant_config.w13_scale.shape == layer.quant_config.w13_zp.shape == (3, 64, 4)
    layer = random_layer(config, NAMED_KEYS["kNvfp4Static"], NAMED_KEYS["kNvfp4Dynamic"])
    assert layer.quant_config.w13_scale.shape == (3, 64, 4)
    assert layer.quant_config.w13_scale_2.shape == (3,)
    assert layer.quant_config.a2_scale_2.shape == (1,)
