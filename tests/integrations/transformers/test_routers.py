"""Routers that choose as a routing method does are told from others, and compute the same.

Here torch stands in for the kernel, which tests/kernels/test_router.py is about.
"""

import copy
import pickle

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("triton")

from moe_kernels.routing import route

from moe_rules.integrations.transformers import routers
from moe_rules.integrations.transformers.routers import Choosing
from tests.integrations.transformers.architectures import architectures, text_model, tiny

SERVED = {  # and whether weights are the softmax over the chosen experts
    "aria": True,  # softmax of the chosen logits
    "gpt_oss": True,  # with a bias
    "granitemoe": True,  # logits become float32 when they are there
    "jamba": False,
    "lara_mini": True,  # multiplies in float32
    "mixtral": True,  # weights in float32
    "qwen3_moe": False,
}
OTHERS = ("flint", "phimoe")
WITH_SCORES = ("ernie4_5_moe", "nemotron_h")
ARCHITECTURES = architectures(*SERVED, *OTHERS, *WITH_SCORES)
X = torch.randint(2, 100, (2, 12), generator=torch.Generator().manual_seed(1))


def in_torch(x, weight, bias, top_k, renormalize, weights_dtype, ids_dtype):
    logits = torch.nn.functional.linear(x, weight, bias)
    weights, ids = route(logits, top_k, "Renormalize" if renormalize else "Default")
    return logits, weights.to(weights_dtype), ids.to(ids_dtype)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(routers, "has_kernel", lambda device: True)
    monkeypatch.setattr("moe_kernels.ops.router.route_tokens", in_torch)
    with torch.no_grad():
        yield


def model_of(name, dtype=torch.float32):
    model = tiny(name, text_model(ARCHITECTURES[name]), dtype)
    model.set_experts_implementation("moe_rules")
    return model


def choosing(model):
    return [module for module in model.modules() if isinstance(module, Choosing)]


def methods(model):
    return {routers._known(module).renormalize for module in choosing(model)}


def logits(model):
    return model(input_ids=X)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SERVED)
def test_they_compute_what_they_did(name, dtype, monkeypatch):
    model = model_of(name, dtype)
    here = logits(model)
    assert methods(model) == {SERVED[name]}
    router = choosing(model)[0]
    x = torch.randn(33, router.weight.shape[1]).to(dtype)
    chosen = router(x)
    monkeypatch.setattr(routers, "has_kernel", lambda device: False)
    for mine, own in zip(chosen, router(x), strict=True):
        assert mine.dtype == own.dtype
        torch.testing.assert_close(mine, own)
    torch.testing.assert_close(here, logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_another_choice_is_the_routers_own(name):
    model = model_of(name)
    logits(model)
    assert methods(model) == {None}


@pytest.mark.parametrize("name", WITH_SCORES)
def test_one_with_scores_to_add_is_left_alone(name):
    """They may be zero today."""
    assert choosing(model_of(name)) == []


def test_what_is_changed_afterwards_counts():
    model = model_of("qwen3_moe")
    logits(model)
    for router in choosing(model):
        router.top_k, router.norm_topk_prob = 3, True
        router.weight.mul_(-1)
    here = logits(model)
    assert methods(model) == {True}
    wanted = copy.deepcopy(model)
    wanted.set_experts_implementation("eager")
    torch.testing.assert_close(here, logits(wanted), rtol=1e-5, atol=1e-5)


def test_a_model_that_is_cast_is_asked_anew():
    model = model_of("lara_mini", torch.bfloat16)
    logits(model)
    assert all(routers._known(module).in_float32 for module in choosing(model))
    logits(model.float())
    assert not any(routers._known(module).in_float32 for module in choosing(model))


def test_gradients_training_and_casts_are_the_routers_own(monkeypatch):
    model = model_of("qwen3_moe")
    monkeypatch.setattr(routers, "_chosen", None)  # which nobody may call
    logits(model.train())
    with torch.autocast("cpu", torch.bfloat16):
        logits(model.eval())
    with torch.enable_grad():
        logits(model.eval())


@pytest.mark.parametrize("by_hand", [False, True])
def test_another_implementation_has_the_model_as_it_was(by_hand):
    model = model_of("qwen3_moe")
    logits(model)
    served = choosing(model)
    if by_hand:
        model.config._experts_implementation = "eager"
    else:
        model.set_experts_implementation("eager")
    logits(model)
    assert choosing(model) == []
    assert not [name for module in served for name in vars(module) if "moe_rules" in name]


def test_copies_are_plain():
    model = model_of("qwen3_moe")
    wanted = logits(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert choosing(copied) == []
        torch.testing.assert_close(logits(copied), wanted, rtol=1e-5, atol=1e-5)


def test_several_models_compile():
    """Also where torch.compile traces one twice: it must come by the same way."""
    for name in ("qwen3_moe", "gpt_oss", "granitemoe"):
        model, eager = model_of(name), model_of(name)
        wanted = logits(eager)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(input_ids=X)[0], wanted, rtol=1e-5, atol=1e-5)
        assert methods(model) == {SERVED[name]}
