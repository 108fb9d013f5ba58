"""Operators: whoever watches sees them, and nobody else pays for them."""

import pytest
import torch
from moe_kernels.ops.library import register_operator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

RAN = []


def _fake(x, factor):
    return x.new_empty(x.shape)


@register_operator(_fake)
def doubled_in_tests(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Looks at values, as no tracer could."""
    RAN.append(x.tolist())
    return torch.tensor([2 * factor * value for value in RAN[-1]])


OPERATOR = torch.ops.moe_kernels.doubled_in_tests.default
X, EXPECTED = torch.tensor([1.0, 3.0]), [6.0, 18.0]


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


@pytest.fixture(params=[torch.inference_mode, torch.no_grad, torch.enable_grad])
def grad_mode(request):
    RAN.clear()
    with request.param():
        yield


def test_it_returns_the_same_in_every_mode(grad_mode):
    assert doubled_in_tests(X, 3.0).tolist() == OPERATOR(X, 3.0).tolist() == EXPECTED


def test_modes_see_the_operator(grad_mode):
    with Watch() as watch:
        assert doubled_in_tests(X, 3.0).tolist() == EXPECTED
    assert OPERATOR in watch.seen


def test_fake_tensors_get_what_the_fake_says(grad_mode):
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(X)
        assert doubled_in_tests(fake, 3.0).shape == X.shape
    assert doubled_in_tests(fake, 3.0).shape == X.shape  # outside, too
    assert RAN == []


def test_graphs_have_the_operator(grad_mode):
    traced = make_fx(lambda x: doubled_in_tests(x, 3.0) + 1, tracing_mode="fake")(X)
    assert OPERATOR in [node.target for node in traced.graph.nodes]
    compiled = torch.compile(
        lambda x: doubled_in_tests(x * 1, 3.0) + 1, fullgraph=True, backend="aot_eager"
    )
    RAN.clear()
    assert compiled(X).tolist() == [value + 1 for value in EXPECTED]
    assert [X.tolist()] == RAN


def test_autograd_says_that_there_is_no_gradient():
    x = X.clone().requires_grad_()
    with torch.enable_grad():
        output = doubled_in_tests(x, 3.0)
        assert output.requires_grad == OPERATOR(x, 3.0).requires_grad
        with pytest.raises(RuntimeError, match=r"has no backward: call it under torch.no_grad\(\)"):
            output.sum().backward()


def _fake_summed(x, others, whole):
    return x.new_empty(x.shape), x.new_empty((), dtype=torch.int64)


@register_operator(_fake_summed)
def summed_in_tests(
    x: torch.Tensor, others: list[torch.Tensor | None], whole: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A sum, and of how many."""
    there = [other for other in others if other is not None]
    return x + sum(there), torch.tensor(len(there))


def test_gradients_of_what_is_in_a_list_are_refused_too():
    bias = torch.ones(2, requires_grad=True)
    for call in (summed_in_tests, torch.ops.moe_kernels.summed_in_tests.default):
        with torch.enable_grad():
            output, count = call(X, [None, bias], True)
        assert output.tolist() == [2.0, 4.0]
        assert (count.item(), count.requires_grad) == (1, False)
        with pytest.raises(RuntimeError, match="summed_in_tests of moe_kernels has no backward"):
            output.sum().backward()
    with torch.no_grad():
        assert not summed_in_tests(X, [None, bias], True)[0].requires_grad


def test_compilers_refuse_the_gradients_of_what_is_in_a_list():
    bias = torch.ones(2, requires_grad=True)
    compiled = torch.compile(
        lambda x, y: summed_in_tests(x, [None, y], True)[0] * 2, fullgraph=True, backend="aot_eager"
    )
    with torch.no_grad():
        assert compiled(X, bias).tolist() == [4.0, 8.0]
    with torch.enable_grad(), pytest.raises(RuntimeError, match="has no backward"):
        compiled(X, bias)


CALLS = [doubled_in_tests, OPERATOR]


@pytest.mark.parametrize("call", CALLS)
def test_torch_func_is_told_that_there_is_no_derivative(call):
    def sum_of(x):
        return call(x, 3.0).sum()

    with torch.enable_grad():
        for transform in (torch.func.grad, torch.func.jacrev):
            with pytest.raises(RuntimeError, match="has no backward"):
                transform(sum_of)(X)
    with pytest.raises(RuntimeError, match="has no derivative in forward mode"):
        torch.func.jvp(sum_of, (X,), (torch.ones(2),))
    with pytest.raises(RuntimeError, match="has no derivative in forward mode"):
        torch.func.jacfwd(sum_of)(X)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("call", CALLS)
def test_tangents_are_not_lost(call, mode):
    with forward_ad.dual_level(), mode():
        assert call(X, 3.0).tolist() == EXPECTED
        with pytest.raises(RuntimeError, match="has no derivative in forward mode"):
            call(forward_ad.make_dual(X, torch.ones(2)), 3.0)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_what_torch_func_does_besides_goes_on(grad_mode):
    def call(x):
        return doubled_in_tests(x, 3.0)

    stacked = torch.func.vmap(call)(torch.stack([X, 2 * X]))
    assert stacked.tolist() == [EXPECTED, [2 * value for value in EXPECTED]]
    assert torch.func.functionalize(call)(X).tolist() == EXPECTED


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traces_have_the_operator():
    trace = torch.jit.trace(lambda x: doubled_in_tests(x, 3.0), X, check_trace=False)
    assert "doubled_in_tests" in str(trace.graph)


def test_nobody_else_pays_for_the_operator(grad_mode):
    with torch.profiler.profile() as profile:
        assert doubled_in_tests(X, 3.0).tolist() == EXPECTED
    names = [event.name for event in profile.events()]
    assert not [name for name in names if "doubled_in_tests" in name], names
