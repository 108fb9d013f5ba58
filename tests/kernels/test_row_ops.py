"""Rows summed in Triton, against torch; in the interpreter where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton")

from moe_kernels.ops.rows import sum_rows
from moe_kernels.prepare_finalize.batched import combine_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("places", [1, 3, 8])
def test_rows_are_summed(places, weighted):
    x = torch.randn(11, 130, device=DEVICE).half()
    x[7] = torch.nan
    rows = torch.randint(0, 11, (6, places), device=DEVICE)
    rows[rows == 7] = 11
    rows[2] = 11
    weights = torch.rand(6, places, device=DEVICE) if weighted else None
    output = sum_rows(x, rows, weights)
    values = torch.cat([x.float(), x.new_zeros(1, 130).float()])[rows]
    expected = values.sum(1) if weights is None else (values * weights[..., None]).sum(1)
    torch.testing.assert_close(output.float(), expected, atol=4e-3, rtol=2e-3)
    torch.testing.assert_close(output, combine_rows(x[None], rows, weights), atol=4e-3, rtol=2e-3)
    assert not output[2].any()


def test_no_rows():
    empty = torch.zeros(0, 4, device=DEVICE)
    nowhere = torch.zeros(2, 1, dtype=torch.int64, device=DEVICE)
    assert torch.equal(sum_rows(empty, nowhere, None), torch.zeros(2, 4, device=DEVICE))
