"""Routing from logits, against the definition of each method."""

import pytest
import torch
from moe_kernels.routing import route


@pytest.mark.parametrize("method", ["Default", "Renormalize", "RenormalizeNaive"])
def test_weights_are_the_softmax(method):
    logits = torch.randn(7, 9, dtype=torch.float64)
    probabilities = logits.softmax(dim=-1)
    weights, ids = route(logits, 3, method)
    assert ids.dtype == torch.int32
    assert weights.dtype == torch.float32
    for token in range(7):
        best = sorted(range(9), key=lambda e: -float(probabilities[token, e]))[:3]
        assert ids[token].tolist() == best
        expected = probabilities[token, best]
        if method != "Default":
            expected = expected / expected.sum()
        torch.testing.assert_close(weights[token].double(), expected, rtol=1e-5, atol=1e-7)


def test_other_methods_are_refused():
    with pytest.raises(ValueError, match="not routed by DeepSeekV3 here, only by Default, Renorm"):
        route(torch.zeros(2, 4), 2, "DeepSeekV3")
