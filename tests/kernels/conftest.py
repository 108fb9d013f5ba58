"""What the tests of kernels share: what this CPU multiplies, and what another would."""

import pytest
import torch
from moe_kernels.cpu import compiled, onednn

ANSWERS = {
    "as this CPU": {torch.float32, torch.bfloat16, torch.float16, torch.int8},
    "float32 alone": {torch.float32},  # as x86 without AVX-512
    "nothing": set(),  # as a torch without oneDNN
}


@pytest.fixture(params=ANSWERS)
def answer(request, monkeypatch):
    """What oneDNN multiplies, as product and tests are told: never more than it does here."""
    asked = onednn.multiplies
    dtypes = {dtype for dtype in ANSWERS[request.param] if asked(dtype)}
    monkeypatch.setattr(onednn, "multiplies", dtypes.__contains__)
    return dtypes


@pytest.fixture(params=["compiled", "not compiled"])
def compiles(request, monkeypatch):
    """Whether products are compiled; not if not, as without llvmlite."""
    if request.param == "not compiled":
        monkeypatch.setattr(compiled, "available", lambda: False)
    elif not compiled.available():
        pytest.skip("needs llvmlite")
    return compiled.available()
