"""Layouts and whole models on a GPU: weights are read where they are."""

import itertools

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from transformers import CompileConfig

from moe_rules.integrations.transformers.layer import is_experts
from moe_rules.integrations.transformers.packed import SERVING
from moe_rules.integrations.transformers.routers import Choosing
from tests.integrations.transformers.architectures import architectures, text_model, tiny
from tests.integrations.transformers.modules import GATES, check, experts, routing

pytestmark = pytest.mark.gpu
BOOL = (False, True)
NAMES = ("aria", "gpt_oss", "minimax_m2", "nemotron_h", "qwen3_moe")
ARCHITECTURES = architectures(*NAMES)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def tokens(*shape):
    return torch.randint(2, 100, shape, generator=torch.Generator().manual_seed(1)).cuda()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("has_gate", "is_transposed", "has_bias"), list(itertools.product(BOOL, repeat=3))
)
def test_layouts(has_gate, is_transposed, has_bias, dtype):
    module = experts(
        has_gate=has_gate, is_transposed=is_transposed, has_bias=has_bias, dtype=dtype
    ).cuda()
    pointer = module.down_proj.data_ptr()
    for sentinels, num_tokens in itertools.product(BOOL, (3, 17, 129)):
        check(module, sentinels, dtype, num_tokens)
    assert module.down_proj.data_ptr() == pointer


@pytest.mark.parametrize("activation", list(GATES))
def test_gates(activation):
    module = experts(is_transposed=True, has_bias=True, **GATES[activation]).cuda()
    assert check(module).activation == activation


def test_odd_sizes():
    module = experts(hidden=30, intermediate=22, dtype=torch.bfloat16).cuda()
    check(module, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_tokens(name):
    model = tiny(name, text_model(ARCHITECTURES[name])).cuda()
    computed = {}
    for implementation in ("eager", "moe_rules"):
        model.set_experts_implementation(implementation)
        limits = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
        computed[implementation] = (
            model(input_ids=tokens(2, 12)).logits,
            model.generate(tokens(2, 6), **limits),
        )
    (eager, eager_tokens), (here, here_tokens) = computed.values()
    torch.testing.assert_close(here, eager, rtol=1e-4, atol=1e-5)
    assert torch.equal(here_tokens, eager_tokens)
    assert all(getattr(m, SERVING).kernel for m in model.modules() if is_experts(m))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_moe"])
def test_routers_choose_in_one_launch(name, dtype):
    model = tiny(name, text_model(ARCHITECTURES[name]), dtype).cuda()
    model.set_experts_implementation("moe_rules")
    model(input_ids=tokens(2, 12))
    routers = [module for module in model.modules() if isinstance(module, Choosing)]
    x = torch.randn(33, routers[0].weight.shape[1]).to("cuda", dtype)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        _, weights, ids = routers[0](x)
    names = [event.name for event in profile.events()]
    assert len([name for name in names if "_choose_kernel" in name]) == 1, names
    assert not [name for name in names if "topk" in name.lower()], names
    model.set_experts_implementation("eager")
    _, own_weights, own_ids = routers[0](x)
    torch.testing.assert_close(weights, own_weights)
    if dtype == torch.float32:  # of equal logits torch takes any
        assert torch.equal(ids, own_ids)


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_moe"])
def test_compiled_generation_with_a_static_cache(name, mode):
    model = tiny(name, text_model(ARCHITECTURES[name])).cuda()
    limits = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": "static"}
    model.set_experts_implementation("eager")
    eager = model.generate(tokens(2, 6), disable_compile=True, **limits)
    model.set_experts_implementation("moe_rules")
    compiling = CompileConfig(fullgraph=True, mode=mode)
    here = model.generate(tokens(2, 6), compile_config=compiling, **limits)
    assert torch.equal(here, eager)


@pytest.mark.parametrize("num_tokens", [1, 17, 129])
def test_a_cuda_graph_computes_what_the_call_does(num_tokens):
    module = experts(has_bias=True, is_transposed=True, dtype=torch.bfloat16).cuda()
    inputs = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(num_tokens, 32, generator=generator, dtype=torch.float32)
        chosen = routing(num_tokens, module.num_experts, seed=seed)
        inputs.append([x.bfloat16().cuda(), *(each.cuda() for each in chosen)])
    expected = [module(*each) for each in inputs]
    static = [x.clone() for x in inputs[0]]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = module(*static)
    for each, wanted in zip(inputs, expected, strict=True):
        for x, values in zip(static, each, strict=True):
            x.copy_(values)
        graph.replay()
        assert torch.equal(output, wanted)
