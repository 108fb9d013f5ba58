"""What oneDNN is said to multiply: the answer follows what oneDNN may use."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from moe_kernels.cpu import onednn

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)

ASK = """
import torch
from moe_kernels.cpu import onednn
print(*(dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int8)
        if onednn.multiplies(dtype)))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is of x86")
def test_held_to_avx2_it_multiplies_float32_alone():
    held = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    answer = subprocess.run([sys.executable, "-c", ASK], env=held, capture_output=True, check=True)
    assert answer.stdout.decode().strip() == "torch.float32"


def test_a_torch_without_it_multiplies_nothing(monkeypatch):
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    assert not any(onednn.multiplies(dtype) for dtype in DTYPES)
