"""Routers that choose as a routing method does are told from others, and compute the same.

Here torch stands in for the kernel, which tests/kernels/test_router.py is about.
"""

import copy
import pickle
from types import SimpleNamespace

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


class Router(torch.nn.Module):
    """One that is served."""

    def __init__(self, dtype=torch.bfloat16):
        super().__init__()
        self.top_k = 2
        self.weight = torch.nn.Parameter(torch.randn(8, 64, dtype=dtype) / 8)

    def forward(self, x):
        logits = torch.nn.functional.linear(x.reshape(-1, 64), self.weight)
        return logits, *self.choose(logits)

    def choose(self, logits):
        weights, ids = logits.float().softmax(-1).topk(2)
        return (weights / weights.sum(-1, keepdim=True)).to(logits.dtype), ids


class WithFactor(Router):
    """Its factor is less than what bfloat16 rounds a weight by."""

    def choose(self, logits):
        weights, ids = super().choose(logits)
        return weights * 1.02, ids


class WithBounds(Router):
    def choose(self, logits):
        return super().choose(logits.clamp(-20, 20))


class PerSequence(Router):
    """It has the shape of its tokens in what it returns."""

    def forward(self, x):
        logits = torch.nn.functional.linear(x, self.weight)
        return logits, *self.choose(logits)


class WithBiasOfScores(Router):
    """Its bias is called as one of logits, and zero at first."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(8, dtype=self.weight.dtype))

    def choose(self, logits):
        scores = logits.float().softmax(-1)
        ids = (scores + self.bias).topk(2)[1]
        return scores.gather(1, ids).to(logits.dtype), ids


class WithTensor(Router):
    """Its bias of scores is no parameter, and zero at first."""

    def __init__(self):
        super().__init__()
        self.correction = torch.zeros(8)

    def choose(self, logits):
        weights, ids = (logits.float().softmax(-1) + self.correction).topk(2)
        return (weights / weights.sum(-1, keepdim=True)).to(logits.dtype), ids


class Factor(torch.nn.Module):
    factor = 1.0

    def forward(self, weights):
        return weights * self.factor


class WithModule(Router):
    def __init__(self):
        super().__init__()
        self.scale = Factor()

    def choose(self, logits):
        weights, ids = super().choose(logits)
        return self.scale(weights), ids


class WithConfiguration(Router):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(factor=1.0)

    def choose(self, logits):
        weights, ids = super().choose(logits)
        return weights * self.config.factor, ids


def asked(router):
    """In front of a router that is beside experts with this implementation, if it may be."""
    if routers._is_router(router):
        routers.put_in_front(Choosing, router)
        vars(router)["_moe_rules_config"] = SimpleNamespace(_experts_implementation=routers.NAME)
    return router.eval()


@pytest.mark.parametrize("shape", [(40, 64), (2, 20, 64)])
@pytest.mark.parametrize(
    "cls", [Router, WithFactor, WithBounds, PerSequence, WithBiasOfScores, WithTensor]
)
def test_whatever_a_router_is_it_computes_its_own(cls, shape):
    router = asked(cls())
    router(torch.randn(shape).bfloat16())
    for bias in (getattr(router, "bias", None), getattr(router, "correction", None)):
        if bias is not None:
            bias.copy_(torch.arange(8) / 2)  # in place, as loading a state does
    x = torch.randn(shape).bfloat16() * 20
    for mine, own in zip(router(x), cls.forward(router, x), strict=True):
        torch.testing.assert_close(mine, own)
    if cls is Router:
        assert routers._known(router).renormalize is True


@pytest.mark.parametrize("cls", [WithModule, WithConfiguration])
def test_what_changes_elsewhere_counts(cls):
    router, x = asked(cls()), torch.randn(40, 64).bfloat16()
    before = router(x)[1]
    (router.scale if cls is WithModule else router.config).factor = 2.0
    torch.testing.assert_close(router(x)[1], 2 * before)


def test_tokens_of_another_shape_are_the_routers_own():
    router = asked(PerSequence())
    router(torch.randn(40, 64).bfloat16())
    assert routers._known(router).renormalize is True
    assert router(torch.randn(2, 20, 64).bfloat16())[0].shape == (2, 20, 8)


def test_a_bias_alone_may_be_trained(monkeypatch):
    model = model_of("gpt_oss").requires_grad_(False)
    logits(model)
    for router in choosing(model):
        router.bias.requires_grad_(True)
    monkeypatch.setattr(routers, "_chosen", None)  # it has no backward
    with torch.enable_grad():
        logits(model).sum().backward()
    assert all(router.bias.grad is not None for router in choosing(model))


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
    wanted, routers = logits(model), choosing(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert choosing(copied) == []
        torch.testing.assert_close(logits(copied), wanted, rtol=1e-5, atol=1e-5)
    assert choosing(model) == routers != []


def test_several_models_compile():
    """Also where torch.compile traces one twice: it must come by the same way."""
    for name in ("qwen3_moe", "gpt_oss", "granitemoe"):
        model, eager = model_of(name), model_of(name)
        wanted = logits(eager)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(input_ids=X)[0], wanted, rtol=1e-5, atol=1e-5)
        assert methods(model) == {SERVED[name]}
