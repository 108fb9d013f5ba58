"""Routers: what they choose and by which logits, on the GPU if there is one, else interpreted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from moe_kernels.ops.router import FEW_TOKENS, choose_experts, route_tokens

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def chosen(logits, top_k, renormalize, weights_dtype=torch.float32, ids_dtype=torch.int64):
    return choose_experts(logits.to(DEVICE), top_k, renormalize, weights_dtype, ids_dtype)


def expected(logits, top_k, renormalize):
    """By the definition, in float64; of equal logits the first expert first."""
    logits = logits.double()
    ids = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = logits.softmax(-1).gather(1, ids)
    return weights / weights.sum(-1, keepdim=True) if renormalize else weights, ids


@given(
    num_tokens=st.integers(0, 5),
    num_experts=st.integers(1, 40),
    data=st.data(),
    renormalize=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None)
def test_it_is_the_softmax_of_the_greatest(num_tokens, num_experts, data, renormalize, dtype, seed):
    top_k = data.draw(st.integers(1, num_experts))
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_tokens, num_experts, generator=generator)
    logits = logits.round(decimals=data.draw(st.integers(0, 3))).to(dtype)  # some are equal
    weights, ids = chosen(logits, top_k, renormalize)
    expected_weights, expected_ids = expected(logits, top_k, renormalize)
    assert torch.equal(ids.cpu(), expected_ids)
    torch.testing.assert_close(weights.cpu().double(), expected_weights, rtol=1e-5, atol=1e-9)


def test_results_are_of_the_dtypes_that_are_asked_for():
    logits = torch.randn(3, 300).t()[:7]  # and logits of any strides
    weights, ids = chosen(logits, 2, True, torch.float16, torch.int32)
    assert (weights.dtype, ids.dtype) == (torch.float16, torch.int32)
    assert torch.equal(ids.cpu().long(), expected(logits, 2, True)[1])


def test_experts_that_are_masked_come_last_and_weigh_nothing():
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 0.0, -torch.inf]])
    weights, ids = chosen(logits, 4, True)
    assert ids.tolist() == [[1, 3, 0, 2]]
    assert weights[0, 2:].tolist() == [0.0, 0.0]


@pytest.mark.filterwarnings("ignore:invalid value")  # of the interpreter
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf])
def test_what_is_no_number_makes_no_weights_of_its_token_alone(value):
    logits = torch.zeros(3, 6)
    logits[1, 4] = value
    weights, ids = chosen(logits, 3, False)
    assert sorted(set(ids[1].tolist())) == [0, 1, 4]
    assert weights[1].isnan().all()
    assert not weights[[0, 2]].isnan().any()


@pytest.mark.parametrize("top_k", [0, 5])
def test_more_experts_than_there_are_are_refused(top_k):
    with pytest.raises(ValueError, match=f"top_k must be 1 to 4, .* got {top_k}"):
        chosen(torch.zeros(2, 4), top_k, True)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_tokens", [0, 1, 17, FEW_TOKENS, FEW_TOKENS + 1])
@pytest.mark.parametrize(("num_experts", "width"), [(8, 64), (60, 300), (33, 1030)])
def test_logits_are_multiplied_and_chosen_by(num_tokens, num_experts, width, has_bias):
    generator = torch.Generator().manual_seed(num_tokens)
    x = torch.randn(num_tokens, 2 * width, generator=generator)[:, :width].half()
    weight = (torch.randn(num_experts, width, generator=generator) * width**-0.5).half()
    bias = torch.randn(num_experts, generator=generator).half() if has_bias else None
    operands = [each if each is None else each.to(DEVICE) for each in (x, weight, bias)]
    logits, weights, ids = route_tokens(*operands, 4, True, torch.float16, torch.int64)
    wanted = torch.nn.functional.linear(
        *(each if each is None else each.double() for each in operands)
    )
    torch.testing.assert_close(logits.double(), wanted, rtol=1e-3, atol=1e-3)
    assert logits.dtype == torch.float16
    expected_weights, expected_ids = expected(logits.cpu(), 4, True)
    assert torch.equal(ids.cpu(), expected_ids)
    torch.testing.assert_close(weights.cpu().double(), expected_weights, rtol=1e-3, atol=1e-5)
    again = route_tokens(*operands, 4, True, torch.float16, torch.int64)
    assert torch.equal(again[0], logits)
