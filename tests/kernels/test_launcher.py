"""Launching from what was prepared: it must come to what Triton does with the same tensors."""

import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from moe_kernels.ops import launcher as launcher_module
from moe_kernels.ops.fused_moe_gemm import fused_moe_gemm
from moe_kernels.ops.launcher import Launcher, kept
from moe_kernels.routing import Routing
from moe_kernels.tensor_spec import contiguous_spec, spec_of, viewed
from moe_kernels.tiling.tile_config import TileConfig
from triton import knobs

SCALARS, CONSTANTS, GRID, STREAM = (3, 1, 16, 0.5), {"BLOCK": 64}, (5,), 7


class Kernel:
    """Stands in for a Triton kernel: it "compiles" for what Triton looks at in tensors."""

    def __init__(self, backend="cuda"):
        self.backend = backend
        self.plain = 0
        self.launches = []

    def __getitem__(self, grid):
        def launch(*tensors_and_scalars, **options):
            self.plain += 1
            tensors = tensors_and_scalars[: -len(SCALARS)]
            assert tensors_and_scalars[len(tensors) :] == SCALARS
            assert options == {**CONSTANTS, "num_warps": 2}
            compiled = Compiled(self, compiled_for(tensors))
            addresses = [0 if x is None else x.data_ptr() for x in tensors]
            compiled[grid](*addresses, *SCALARS, *CONSTANTS.values())
            return compiled

        return launch


class Compiled:
    function, packed_metadata = "function", "metadata"

    def __init__(self, kernel, specialization):
        self.kernel, self.specialization = kernel, specialization
        self.metadata = SimpleNamespace(target=SimpleNamespace(backend=kernel.backend))

    def __getitem__(self, grid):
        def launch(*arguments):
            hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
            hooks[0]("metadata")
            self.run(*grid, STREAM, self.function, self.packed_metadata, None, *hooks, *arguments)

        return launch

    def run(self, x, y, z, stream, function, packed, metadata, enter, leave, *arguments):
        assert (stream, function, packed) == (STREAM, self.function, self.packed_metadata)
        self.kernel.launches.append(((x, y, z), self.specialization, arguments))


@contextmanager
def stream():
    """Within, there is one, whatever the device."""
    active = SimpleNamespace(get_current_stream=lambda device: STREAM)
    runtime = SimpleNamespace(driver=SimpleNamespace(active=active))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher_module, "triton", SimpleNamespace(runtime=runtime))
        yield


def compiled_for(tensors):
    """Whether there is each tensor, its dtype, and whether 16 divides its address."""
    return [x if x is None else (x.dtype, x.data_ptr() % 16 == 0) for x in tensors]


def launcher_of(kernel):
    return Launcher(kernel, GRID, SCALARS, CONSTANTS, num_warps=2)


@st.composite
def drawn_tensors(draw):
    """Three tensors of which the last may be missing, at any offsets."""
    tensors = []
    for index in range(3):
        dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int32]))
        offset = draw(st.sampled_from([0, 0, 0, 1, 4, 8]))
        tensors.append(torch.zeros(64, dtype=dtype)[offset:])
        if index == 2 and draw(st.booleans()):
            tensors[2] = None
    return tensors


@given(calls=st.lists(drawn_tensors(), min_size=1, max_size=12))
def test_every_call_runs_the_kernel_compiled_for_its_tensors(calls):
    kernel = Kernel()
    launcher = launcher_of(kernel)
    with stream():
        for tensors in calls:
            launcher(*tensors)
    assert len(kernel.launches) == len(calls)
    for tensors, (grid, specialization, arguments) in zip(calls, kernel.launches, strict=True):
        assert grid == (5, 1, 1)
        assert specialization == compiled_for(tensors)
        addresses = [0 if x is None else x.data_ptr() for x in tensors]
        assert arguments == (*addresses, *SCALARS, *CONSTANTS.values())


@stream()
def test_triton_is_asked_once_for_aligned_tensors_and_always_for_others():
    kernel = Kernel()
    launcher = launcher_of(kernel)
    aligned = [torch.zeros(64), torch.zeros(64), None]
    for _ in range(3):
        launcher(*aligned)
    assert (kernel.plain, len(kernel.launches)) == (1, 3)
    for _ in range(3):
        launcher(torch.zeros(64)[1:], *aligned[1:])
    assert (kernel.plain, len(kernel.launches)) == (4, 6)


@stream()
def test_hooks_of_launches_are_called():
    kernel, seen = Kernel(), []
    launcher = launcher_of(kernel)
    launcher(torch.zeros(4), None)
    knobs.runtime.launch_enter_hook.add(seen.append)
    try:
        launcher(torch.zeros(4), None)
    finally:
        knobs.runtime.launch_enter_hook.remove(seen.append)
    launcher(torch.zeros(4), None)
    assert (seen, kernel.plain, len(kernel.launches)) == (["metadata"], 1, 3)


@pytest.mark.parametrize("offset", [0, 1])
@stream()
def test_triton_is_given_views_where_the_kernel_has_other_dtypes(offset):
    kernel = Kernel()
    launcher = Launcher(
        kernel, GRID, SCALARS, CONSTANTS, viewed={1: torch.int32, 2: torch.int32}, num_warps=2
    )
    packed = torch.zeros(64, dtype=torch.uint8)
    for _ in range(2):
        launcher(torch.zeros(64)[offset:], packed, None)
    for _, specialization, (_, address, *_) in kernel.launches:
        assert specialization == [(torch.float32, offset == 0), (torch.int32, True), None]
        assert address == packed.data_ptr()
    assert kernel.plain == 1 + offset


def test_triton_is_always_asked_where_it_looks_at_more_than_alignment():
    kernel = Kernel(backend="hip")
    launcher = launcher_of(kernel)
    for _ in range(3):
        launcher(torch.zeros(4), None)
    assert kernel.plain == 3


tensor_facts = st.tuples(
    st.permutations([2, 3, 5]),
    st.permutations([0, 1, 2]),
    st.sampled_from([torch.float16, torch.bfloat16]),
)


@given(first=tensor_facts, second=tensor_facts)
def test_specs_differ_with_shape_strides_and_dtype(first, second):
    def tensor(shape, order, dtype):
        return torch.empty(shape, dtype=dtype).permute(order)

    a, b = tensor(*first), tensor(*second)
    same = (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
    assert (spec_of(a) == spec_of(b)) == same

    @kept
    def launcher(spec):
        return object()

    assert (launcher(spec_of(a)) is launcher(spec_of(b))) == same


@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    padding=st.sampled_from([0, 8]),
    dtypes=st.permutations([torch.uint8, torch.int16, torch.int32]),
)
def test_specs_of_new_tensors_and_of_views_are_those_that_tensors_have(shape, padding, dtypes):
    stored, seen = dtypes[:2]
    shape = (*shape, 8)
    x = torch.empty((*shape[:-1], 8 + padding), dtype=stored)
    assert contiguous_spec(tuple(x.shape), stored, x.device) == spec_of(x)
    x = x[..., :8]
    assert viewed(spec_of(x), seen) == spec_of(x.view(seen))


@st.composite
def drawn_layouts(draw):
    """A matrix's dtype, order of dimensions in memory and padding, for both sides of a product."""
    dtype = draw(st.sampled_from([torch.float16, torch.float32]))
    layouts = [
        (draw(st.permutations(range(dim))), draw(st.sampled_from([0, 1, 8]))) for dim in (2, 3)
    ]
    return dtype, layouts


def laid_out(x, order, padding):
    """The values of ``x`` with its dimensions in that order in memory, the last one padded."""
    shape = [x.shape[dim] for dim in order]
    shape[-1] += padding
    memory = torch.zeros(shape, dtype=x.dtype, device=x.device)
    result = memory[..., : shape[-1] - padding].permute(
        [order.index(dim) for dim in range(x.dim())]
    )
    return result.copy_(x)


@given(calls=st.lists(drawn_layouts(), min_size=2, max_size=5))
@settings(max_examples=10, deadline=None)
def test_gemms_of_other_strides_and_dtypes_have_launchers_of_their_own(calls):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 32, generator=generator).to(device)
    weight = torch.randn(2, 16, 32, generator=generator).to(device)
    ids = torch.tensor([[0], [1], [0]], dtype=torch.int32, device=device)
    expected = torch.stack(
        [weight[expert] @ x for x, expert in zip(tokens, ids[:, 0], strict=True)]
    )
    config = TileConfig(16, 16, 16, 1, 1, 1)
    for dtype, (of_tokens, of_weight) in calls:
        a = laid_out(tokens.to(dtype), *of_tokens)
        b = laid_out(weight.to(dtype), *of_weight)
        output = fused_moe_gemm(a, b, Routing(ids, 2, None), 3, 1, config, dtype)
        assert output.dtype == dtype
        torch.testing.assert_close(output.float(), expected, rtol=2e-2, atol=5e-2)


WITH_TRITON = '''
"""Triton compiles for a GPU that is not there; its launches are noted."""
import itertools
from types import SimpleNamespace

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import driver

from moe_kernels.ops.launcher import Launcher

CUDABackend.make_cubin = lambda self, src, metadata, *rest, **more: b""
noted = []


class NoteLaunch:
    def __init__(self, src, metadata):
        self.key = repr((src.signature, src.constants, src.attrs))

    def __call__(self, x, y, z, stream, function, packed, metadata, enter, exit, *arguments):
        addresses = [a.data_ptr() if hasattr(a, "data_ptr") else a or 0 for a in arguments[:3]]
        noted.append((self.key, x, y, z, *addresses, *arguments[3:]))


facts = {"max_shared_mem": 232448, "multiprocessor_count": 132, "max_num_regs": 65536}
driver.set_active(
    SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        launcher_cls=NoteLaunch,
        utils=SimpleNamespace(
            get_device_properties=lambda device: facts | {"warpSize": 32},
            load_binary=lambda *binary: (1, 1, 32, 0, 1024),
        ),
    )
)


@triton.jit
def kernel(a_ptr, b_ptr, c_ptr, n, stride, factor, HAS_C: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(a_ptr + index * stride, mask=index < n) * factor
    if HAS_C:
        value += tl.load(c_ptr + index, mask=index < n)
    tl.store(b_ptr + index, value, mask=index < n)


def tensor(dtype, offset):
    return torch.zeros(64, dtype=dtype)[offset:]


for n, stride in ((16, 1), (17, 16)):
    launchers = {}
    for dtype, offset, has_c in itertools.product(
        (torch.float32, torch.float16), (0, 1, 8), (True, False)
    ):
        tensors = (tensor(dtype, offset), tensor(dtype, 0), tensor(dtype, 0) if has_c else None)
        constants = {"HAS_C": has_c, "BLOCK": 32}
        launcher = launchers.setdefault(
            has_c, Launcher(kernel, (2, 3), (n, stride, 0.5), constants, num_warps=1)
        )
        for _ in range(3):
            launcher(*tensors)
        kernel[(2, 3)](*tensors, n, stride, 0.5, **constants, num_warps=1)
        assert len(set(noted[-4:])) == 1, noted[-4:]
print(len(noted), len({key for key, *_ in noted}))
'''


@pytest.mark.slow
def test_it_runs_what_triton_would(tmp_path):
    # In a process of its own: here Triton may interpret.
    script = tmp_path / "with_triton.py"
    script.write_text(WITH_TRITON)
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "PATH": "", "TRITON_INTERPRET": "0"}
    run = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    # Two dtypes, aligned and not, with and without a third tensor, two sets of integers.
    assert run.stdout.split() == ["96", "16"]
