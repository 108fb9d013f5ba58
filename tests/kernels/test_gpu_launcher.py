"""Launches on a GPU that are not looked up as the first was: other streams, threads, addresses."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KEYS = {
    "bf16": ("TritonExperts", None, None),
    "fp8": ("TritonExperts", "kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
    "fp8_tensor": ("TritonExperts", "kFp8StaticTensorSym", "kFp8DynamicTensorSym"),
}
TOKENS = (1, 20, 300)


def layer_and_kernel(scheme, num_tokens, device="cuda", seed=0):
    name, *keys = KEYS[scheme]
    keys = [None if key is None else NAMED_KEYS[key] for key in keys]
    config = FusedMoEConfig(8, 2, 512, 256)
    layer = random_layer(config, *keys, num_tokens=num_tokens, device=device, seed=seed)
    return layer, bind(name, config, layer.quant_config)


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("scheme", KEYS)
def test_addresses_and_strides_change_nothing(scheme, num_tokens):
    layer, kernel = layer_and_kernel(scheme, num_tokens)
    arguments = layer.arguments()
    expected = kernel.apply(**arguments)
    tokens = layer.hidden_states
    for offset, pitch in ((1, 512), (0, 512), (8, 512), (0, 520), (3, 515), (0, 512)):
        memory = torch.full((num_tokens * pitch + offset,), torch.nan, device="cuda").bfloat16()
        moved = memory[offset:].view(num_tokens, pitch)[:, :512]
        moved.copy_(tokens)
        ids = torch.zeros(num_tokens * 2 + 1, dtype=torch.int32, device="cuda")[offset % 2 :]
        ids = ids[: num_tokens * 2].view(num_tokens, 2)
        ids.copy_(layer.topk_ids)
        output = kernel.apply(**arguments | {"hidden_states": moved, "topk_ids": ids})
        assert torch.equal(output, expected), (offset, pitch)


@pytest.mark.parametrize("scheme", KEYS)
def test_launches_go_to_the_current_stream(scheme):
    layer, kernel = layer_and_kernel(scheme, 20)
    other, _ = layer_and_kernel(scheme, 20, seed=1)
    arguments = layer.arguments()
    expected = kernel.apply(**arguments | {"hidden_states": other.hidden_states})
    kernel.apply(**arguments)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # on another stream, what follows would come too early
        layer.hidden_states.copy_(other.hidden_states)
        output = kernel.apply(**arguments)
    stream.synchronize()
    assert torch.equal(output, expected)


@pytest.mark.parametrize("scheme", KEYS)
def test_threads_do_not_disturb_each_other(scheme):
    layers = [layer_and_kernel(scheme, num_tokens, seed=num_tokens) for num_tokens in TOKENS]
    expected = [kernel.apply(**layer.arguments()) for layer, kernel in layers]
    torch.cuda.synchronize()

    def run(index):
        layer, kernel = layers[index % len(layers)]
        with torch.cuda.stream(torch.cuda.Stream()):
            output = kernel.apply(**layer.arguments())
            torch.cuda.current_stream().synchronize()
        return torch.equal(output, expected[index % len(layers)])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(60)))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("scheme", KEYS)
def test_launches_go_to_the_device_of_the_tensors(scheme):
    for num_tokens in TOKENS:
        outputs = []
        for device in ("cuda:0", "cuda:1", "cuda:0", "cuda:1"):
            layer, kernel = layer_and_kernel(scheme, num_tokens, device)
            outputs.append(kernel.apply(**layer.arguments()).cpu())
            assert torch.cuda.current_device() == 0
        assert all(torch.equal(output, outputs[0]) for output in outputs)
