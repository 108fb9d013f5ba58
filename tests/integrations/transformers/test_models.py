"""Whole models: set, saved, moved, copied, compiled, and those that never call."""

import copy
import gc
import itertools
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from moe_kernels.cpu.compiled import available
from moe_kernels.cpu.packed_weights import PACKED, stands_for_packed
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, CompileConfig, Llama4TextConfig, Qwen3MoeConfig

from moe_rules.integrations.transformers.layer import (
    gemm_weights,
    is_experts,
    layer_config,
    layer_tensors,
    stored,
)
from moe_rules.integrations.transformers.packed import SERVING
from moe_rules.integrations.transformers.serving import serve
from tests.integrations.transformers.architectures import architectures, text_model, tiny
from tests.integrations.transformers.long import long

ARCHITECTURES = architectures()
X = torch.randint(2, 100, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def model_of(name="qwen3_moe"):
    return tiny(name, text_model(ARCHITECTURES[name]))


def experts_of(model):
    return [module for module in model.modules() if is_experts(module)]


def served(model):
    """The model after a forward pass, its weights packed."""
    model.set_experts_implementation("moe_rules")
    model(input_ids=X)
    assert all(hasattr(module, SERVING) for module in experts_of(model))
    return model


@pytest.fixture
def nothing_compiled(monkeypatch):
    """A CPU for which products are not compiled, so that weights are packed."""
    monkeypatch.setattr("moe_kernels.layouts.packed_for_cpu.stored", lambda *_: None)


@pytest.fixture(params=["qwen3_moe", "gpt_oss"])
def pair(request, nothing_compiled):
    """A model that is served, its weights packed, and its twin that is eager."""
    eager = model_of(request.param)
    eager.set_experts_implementation("eager")
    return served(model_of(request.param)), eager


def logits(model):
    return model(input_ids=X).logits


def assert_as_eager(model, eager):
    torch.testing.assert_close(logits(model), logits(eager), rtol=1e-5, atol=1e-5)


def test_a_layer_is_the_same_whatever_tensors_torch_makes_by_default():
    module = experts_of(model_of("gpt_oss"))[0]
    expected = layer_config(module, 2, torch.float32)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            assert layer_config(module, 2, torch.float32) == expected
    finally:
        torch.set_default_dtype(torch.float32)


# Weights ---------------------------------------------------------------------------------------


def test_weights_are_let_go_and_come_back_bit_for_bit(pair):
    model, eager = pair
    module, plain = experts_of(model)[0], experts_of(eager)[0]
    own = stored(module, "down_proj")
    assert stands_for_packed(own)
    assert own.untyped_storage().nbytes() == own.element_size()
    model.set_experts_implementation("eager")
    assert torch.equal(module.gate_up_proj, plain.gate_up_proj)
    assert torch.equal(module.down_proj, plain.down_proj)
    assert type(module) is type(plain)
    assert torch.equal(logits(model), logits(eager))


def test_a_configuration_set_by_hand_gives_them_back_too(pair):
    model, eager = pair
    model.config._experts_implementation = "eager"
    assert torch.equal(logits(model), logits(eager))


def test_nothing_holds_packed_weights_of_a_model_that_has_its_own(pair):
    model, _ = pair
    gc.collect()
    before = len(PACKED)
    model.set_experts_implementation("eager")
    gc.collect()
    assert len(PACKED) == before - len(experts_of(model))


def test_what_is_saved_is_what_eager_saves(pair, tmp_path):
    model, eager = pair
    model.save_pretrained(tmp_path / "here")
    eager.save_pretrained(tmp_path / "eager")
    for file in ("model.safetensors", "config.json"):
        here, there = ((tmp_path / folder / file).read_bytes() for folder in ("here", "eager"))
        assert here == there
    assert stands_for_packed(stored(experts_of(model)[0], "down_proj"))
    loaded = type(model).from_pretrained(tmp_path / "here", experts_implementation="moe_rules")
    assert_as_eager(loaded.eval(), eager)
    assert hasattr(experts_of(loaded)[0], SERVING)


def test_a_model_that_is_served_loads_moves_casts_and_is_copied(pair):
    model, eager = pair
    other = type(model)(model.config)
    other.load_state_dict(model.state_dict())
    assert_as_eager(other.eval(), eager)
    served(other).load_state_dict(eager.state_dict())
    assert_as_eager(other, eager)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_as_eager(copied, eager)
    half, half_eager = logits(model.to(torch.bfloat16)), logits(eager.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, half_eager, rtol=0, atol=0.1)


def test_other_weights_are_computed_with(pair):
    model, eager = pair
    for each in pair:
        each.load_state_dict({name: 2 * w for name, w in eager.state_dict().items()})
    assert_as_eager(model, eager)
    for each in pair:
        for module in experts_of(each):
            half = {key: 0.5 * w for key, w in module.state_dict().items()}
            module.load_state_dict(half, assign=True)
    assert_as_eager(model, eager)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_what_is_compiled_reads_the_models_own_weights_by_rows(name):
    if not available():
        pytest.skip("products are not compiled for this CPU")
    model, eager = served(model_of(name)), model_of(name)
    eager.set_experts_implementation("eager")
    assert_as_eager(model, eager)
    for module, plain in zip(experts_of(model), experts_of(eager), strict=True):
        w13, w2, *_ = layer_tensors(module)
        assert w13.is_contiguous()
        assert w2.is_contiguous()
        assert torch.equal(stored(module, "gate_up_proj"), plain.gate_up_proj)


def test_whoever_reads_a_weight_gets_it_back(pair):
    model, eager = pair
    module, plain = experts_of(model)[0], experts_of(eager)[0]
    assert torch.equal(module.down_proj, plain.down_proj)
    assert torch.equal(module.gate_up_proj, plain.gate_up_proj)
    assert_as_eager(model, eager)


@pytest.mark.parametrize("names", [["down_proj"], ["gate_up_proj", "down_proj"]])
def test_values_that_are_put_in_the_place_of_others_stay(pair, names):
    model, eager = pair
    for each in pair:
        for module in experts_of(each):
            for name in names:
                parameter = stored(module, name)
                parameter.data = torch.full(parameter.shape, 0.01)
    assert_as_eager(model, eager)
    model.set_experts_implementation("eager")
    assert torch.equal(logits(model), logits(eager))


@pytest.mark.parametrize("names", [["down_proj"], ["gate_up_proj", "down_proj"]])
def test_layers_may_share_weights(names, nothing_compiled):
    model, eager = model_of("gpt_oss"), model_of("gpt_oss")
    for each in (model, eager):
        first, second, *_ = experts_of(each)
        for name in names:
            setattr(second, name, getattr(first, name))
    eager.set_experts_implementation("eager")
    model.set_experts_implementation("moe_rules")
    for _ in range(2):
        assert_as_eager(model, eager)
    assert torch.equal(model.state_dict()[SECOND], eager.state_dict()[SECOND])
    for each in (model, eager):
        experts_of(each)[1].down_proj.mul_(2)
    assert_as_eager(model, eager)
    model.set_experts_implementation("eager")
    assert torch.equal(logits(model), logits(eager))


SECOND = "model.layers.1.mlp.experts.down_proj"


def test_threads_that_come_first_together(nothing_compiled, monkeypatch):
    model, eager = model_of("gpt_oss"), model_of("gpt_oss")
    eager.set_experts_implementation("eager")
    model.set_experts_implementation("moe_rules")
    together, converted = threading.Barrier(4), []

    def slow_serve(module, *rest):
        converted.append(module)
        time.sleep(0.05)  # the others arrive meanwhile
        return serve(module, *rest)

    monkeypatch.setattr("moe_rules.integrations.transformers.forward.serve", slow_serve)

    def call(_):
        together.wait()
        with torch.no_grad():
            return logits(model)

    with ThreadPoolExecutor(4) as threads:
        for output in threads.map(call, range(4)):
            torch.testing.assert_close(output, logits(eager), rtol=1e-5, atol=1e-5)
    assert converted == experts_of(model)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_thread_that_reads_weights_meanwhile(pair, monkeypatch, at):
    """It gives them back, and a call begins anew."""
    model, eager = pair
    calls = itertools.count()

    def and_then_read(module):
        weights = gemm_weights(module)
        if next(calls) == at:
            module.down_proj  # noqa: B018
        return weights

    monkeypatch.setattr("moe_rules.integrations.transformers.forward.gemm_weights", and_then_read)
    assert_as_eager(model, eager)


class Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_adapters_are_computed_with_and_taken_off(pair):
    model, eager = pair
    before = logits(eager)
    for each in pair:
        for module in experts_of(each):
            parametrize.register_parametrization(module, "down_proj", Doubled())
    assert_as_eager(model, eager)
    assert not torch.allclose(logits(eager), before)
    for each in pair:
        for module in experts_of(each):
            parametrize.remove_parametrizations(module, "down_proj", leave_parametrized=False)
    assert_as_eager(model, eager)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapted_in", ["eager", "moe_rules"])
def test_adapters_stay_when_the_implementation_changes(pair, adapted_in):
    model, eager = pair
    before = logits(eager)
    model.set_experts_implementation(adapted_in)
    for each in pair:
        for module in experts_of(each):
            parametrize.register_parametrization(module, "down_proj", Doubled())
    for name in ("moe_rules", "eager", "moe_rules"):
        model.set_experts_implementation(name)
        assert_as_eager(model, eager)
    for module in experts_of(model):
        parametrize.remove_parametrizations(module, "down_proj", leave_parametrized=False)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    assert hasattr(experts_of(model)[0], SERVING)


def test_layers_are_converted_one_by_one():
    model = model_of()
    model.set_experts_implementation("moe_rules")
    packed = []
    for module in experts_of(model):
        module.register_forward_hook(
            lambda *_: packed.append([hasattr(m, SERVING) for m in experts_of(model)])
        )
    model(input_ids=X)
    layers = len(packed)
    assert packed == [[index <= layer for index in range(layers)] for layer in range(layers)]


# torch.compile and caches ------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["gpt_oss", pytest.param("qwen3_moe", marks=long)], indirect=True)
@pytest.mark.parametrize("served_before", [False, pytest.param(True, marks=long)])
def test_a_graph_without_breaks(pair, served_before):
    model, eager = pair
    if not served_before:
        model.set_experts_implementation("eager")
        model.set_experts_implementation("moe_rules")
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(
            compiled(input_ids=X).logits, logits(eager), rtol=1e-5, atol=1e-5
        )
    assert hasattr(experts_of(model)[0], SERVING)


@long
def test_a_model_made_by_hand_is_compiled_before_anything_has_seen_it():
    eager = model_of()
    eager.set_experts_implementation("eager")
    config = copy.deepcopy(eager.config)
    config._experts_implementation = "moe_rules"
    model = type(eager)(config).eval()
    model.load_state_dict(eager.state_dict())
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(
            compiled(input_ids=X).logits, logits(eager), rtol=1e-5, atol=1e-5
        )
    assert_as_eager(model, eager)


@long
def test_generation_with_a_static_cache_is_compiled(pair):
    model, eager = pair
    torch.compiler.reset()
    compiling = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
    compiling._compile_all_devices = True
    limits = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": "static"}
    here = model.generate(X, compile_config=compiling, **limits)
    assert torch.equal(here, eager.generate(X, disable_compile=True, **limits))


# What is said of models ------------------------------------------------------------------------


def llama4(**kwargs):
    config = Llama4TextConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=32,
        intermediate_size_mlp=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        pad_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config, **kwargs)


def test_a_model_that_never_calls_is_told(log, tmp_path, monkeypatch):
    said = (
        "moe_rules: Llama4ForCausalLM has experts that compute themselves, whatever implementation "
        "is set: Llama4TextExperts"
    )
    model = llama4()
    assert said not in log.messages
    model.set_experts_implementation("moe_rules")
    assert log.messages == [said]
    model.save_pretrained(tmp_path)
    for make in (
        lambda: llama4(experts_implementation="moe_rules"),
        lambda: AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="moe_rules"),
    ):
        log.clear()
        monkeypatch.setattr("moe_rules.integrations.transformers.saying._said", set())
        make()
        assert log.messages == [said]


def test_a_name_for_parts_of_a_model_is_a_name_all_the_same(log):
    llama4().set_experts_implementation({"": "eager", "text_config": {"": "moe_rules"}})
    assert len(log.messages) == 1


def test_a_model_without_experts_is_told(log):
    config = Qwen3MoeConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_experts=4)
    dense = transformers.Qwen3Config(
        **{name: getattr(config, name) for name in ("vocab_size", "hidden_size")},
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    transformers.Qwen3ForCausalLM(dense).set_experts_implementation("moe_rules")
    assert log.messages == ["moe_rules: Qwen3ForCausalLM has no experts, so that nothing changes"]


def test_a_model_that_calls_is_told_nothing_when_it_is_set(log):
    model_of().set_experts_implementation("moe_rules")
    assert log.messages == []
