"""A model that transformers spreads over ranks gives what it gives on one."""

import pytest
import torch

pytest.importorskip("transformers", minversion="5.24")
pytest.importorskip("accelerate")  # transformers loads no model over ranks without

from transformers import AutoModelForCausalLM

from tests.integrations.transformers.architectures import architectures, text_model, tiny
from tests.kernels.ranks.rank_pool import RankPool

ARCHITECTURES = architectures()
X = torch.randint(2, 100, (2, 12), generator=torch.Generator().manual_seed(1))
PARALLEL = {
    "experts, all tokens on all ranks": {"tp_size": 2, "ep_size": 2},
    "experts, all to all": {"tp_size": 2, "ep_size": 2, "ep_implementation": "all_to_all"},
    "a part of each expert": {"tp_size": 2, "tp_plan": "auto"},
}


@pytest.fixture(scope="module")
def pool():
    made = RankPool(2)
    yield made
    made.stop()


@pytest.fixture(scope="module", params=["qwen3_moe", "gpt_oss"])
def saved(request, tmp_path_factory):
    """A model's folder, and its logits on one rank, eager."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny(request.param, text_model(ARCHITECTURES[request.param]))
    model.set_experts_implementation("eager")
    model.save_pretrained(folder)
    with torch.no_grad():
        return folder, model(input_ids=X).logits


def logits(rank, size, folder, parallel):
    """This rank's logits, and which kernels computed its experts."""
    from transformers.distributed import DistributedConfig

    from moe_rules.integrations.transformers.packed import SERVING

    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        distributed_config=DistributedConfig(**parallel),
        experts_implementation="moe_rules",
    )
    with torch.no_grad():
        model(input_ids=X)
        first = [getattr(module, SERVING, None) for module in model.modules()]
        output = model(input_ids=X).logits
    output = output.full_tensor() if hasattr(output, "full_tensor") else output
    servings = [getattr(module, SERVING, None) for module in model.modules()]
    # What serves a layer is kept; its weights, biases and scales come anew in each call.
    assert all(one is other for one, other in zip(first, servings, strict=True))
    kernels = {type(s.kernel.experts).__name__ for s in servings if s is not None}
    return output.numpy(), kernels


@pytest.mark.parametrize("parallel", PARALLEL)
def test_ranks_give_the_logits_of_one(pool, saved, parallel):
    folder, expected = saved
    for output, kernels in pool.run(logits, folder, PARALLEL[parallel]):
        assert len(kernels) == 1
        assert all("Experts" in name for name in kernels)
        torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-5, atol=1e-5)
