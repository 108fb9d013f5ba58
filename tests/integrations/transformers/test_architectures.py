"""Tiny models of every architecture: logits as eager's, and the same tokens.

Tokens and bf16 are those of a few architectures where longer tests are left out.
"""

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.reference import error_bound, relative_error

from moe_rules.integrations.transformers.layer import is_experts
from moe_rules.integrations.transformers.packed import SERVING
from tests.integrations.transformers.architectures import architectures, text_model, tiny
from tests.integrations.transformers.long import LONG
from tests.integrations.transformers.modules import expected

ARCHITECTURES = architectures()
FEW = ("aria", "gpt_oss", "nemotron_h")
"""Experts that are transposed, interleaved with biases, and without gate."""
TRIED = list(ARCHITECTURES) if LONG else FEW
STEPS = 32

COUNTS = {"5.17.0": 54, "5.24.0": 67}
"""How many there are, by the version of transformers."""


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Some models compile what helps large ones."""
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        yield


def model_of(name, dtype=torch.float32):
    return tiny(name, text_model(ARCHITECTURES[name]), dtype)


def tokens(*shape):
    return torch.randint(2, 100, shape, generator=torch.Generator().manual_seed(1))


def as_eager_and_here(model, compute):
    model.set_experts_implementation("eager")
    eager = compute(model)
    model.set_experts_implementation("moe_rules")
    here = compute(model)
    served = [getattr(m, SERVING) for m in model.modules() if is_experts(m) and hasattr(m, SERVING)]
    assert served
    assert all(serving.kernel is not None for serving in served)
    return eager, here


def test_there_are_as_many_as_said():
    count = COUNTS.get(transformers.__version__)
    if count is None:
        pytest.skip(f"not counted for transformers {transformers.__version__}")
    assert len(ARCHITECTURES) == count


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_logits_are_those_of_eager(name):
    x = tokens(2, 12)
    eager, here = as_eager_and_here(model_of(name), lambda model: model(input_ids=x)[0])
    if not torch.allclose(here, eager, rtol=1e-5, atol=1e-5):
        # Which of the two is farther from what they round depends on the CPU.
        in_float64 = model_of(name).double()
        in_float64.set_experts_implementation("eager")
        exact = in_float64(input_ids=x)[0]
        assert exact.dtype == torch.float64
        assert (here - exact).abs().max() <= 1.5 * (eager - exact).abs().max() <= 1e-4


@pytest.mark.parametrize("name", TRIED)
def test_tokens_are_those_of_eager(name):
    model = model_of(name)
    if model.can_generate():
        limits = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
        x = tokens(2, 6)
        eager, here = as_eager_and_here(model, lambda model: model.generate(x, **limits))
        assert here.shape == (2, 6 + STEPS)
    else:
        eager, here = as_eager_and_here(model, greedy)
    assert torch.equal(here, eager)


def greedy(model):
    """Tokens of a model without a head: the embeddings that its states are most alike."""
    x, embeddings = tokens(2, 6), model.get_input_embeddings().weight
    for _ in range(STEPS):
        states = model(input_ids=x)[0][:, -1]
        logits = states @ embeddings.T if states.shape[1] == embeddings.shape[1] else states
        x = torch.cat([x, logits.argmax(-1, keepdim=True)], dim=1)
    return x


@pytest.mark.parametrize("name", TRIED)
def test_layers_in_bf16_are_within_the_bound(name):
    model = model_of(name, torch.bfloat16)
    model.set_experts_implementation("moe_rules")
    calls = []
    for module in model.modules():
        if is_experts(module):
            module.register_forward_hook(lambda *call: calls.append(call))
    model(input_ids=tokens(2, 12))
    assert calls
    bound = error_bound(torch.bfloat16, FusedMoEQuantConfig(), True)
    for module, inputs, output in calls:
        assert output.dtype == torch.bfloat16
        assert relative_error(output, expected(module, *inputs)) <= bound
