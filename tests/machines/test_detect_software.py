import dataclasses

import pytest

from moe_rules.machines.detection import probe
from moe_rules.machines.detection.packages import Packages, Presence
from moe_rules.machines.machine import facts_of

FLASHINFER = """
raise RuntimeError("imported")
from .quantization import (fp4_quantize as fp4_quantize, nvfp4_block_scale_interleave)
from .quantization import scaled_fp4_grouped_quantize
from .activation import silu_and_mul_scaled_nvfp4_experts_quantize
import contextlib
with contextlib.suppress(ImportError):
    from .fused_moe import cute_dsl_fused_moe_nvfp4
"""
FUSED_MOE = """
from .core import (ActivationType, cutlass_fused_moe, trtllm_bf16_moe, trtllm_fp4_block_scale_moe,
    trtllm_fp8_block_scale_moe, trtllm_fp8_per_tensor_scale_moe, trtllm_mxint4_block_scale_moe)
try:
    from .cute_dsl import b12x_fused_moe, cute_dsl_fused_moe_nvfp4
except ImportError:
    pass
def __getattr__(name):
    raise AttributeError(name)
"""


def software(system):
    return {f.fact: f.value if f.known else "unknown" for f in probe(system).findings}


def install_flashinfer(fake, enum="Gelu = 0\n    Situ = 10", cubin=True):
    fake.package("flashinfer/__init__.py", FLASHINFER)
    fake.package("flashinfer/fused_moe/__init__.py", FUSED_MOE)
    fake.package("flashinfer/fused_moe/core.py", "from ..enums import ActivationType\n")
    fake.package("flashinfer/enums.py", f"class ActivationType:\n    {enum}\n")
    fake.package("flashinfer/cute_dsl/__init__.py")
    fake.package("flashinfer/cute_dsl/utils.py", "def convert_sf_to_mma_layout(): ...\n")
    fake.package("flashinfer/cute_dsl/blockscaled_gemm.py", "from x import grouped_gemm_nt_masked")
    if cubin:
        fake.package("flashinfer_cubin/__init__.py")


def install_cute_dsl(fake):
    fake.package("cutlass/__init__.py", "raise RuntimeError('imported')")


def test_nothing_installed_is_all_false(fake):
    assert dict(probe(fake.system()).machine.software) == dict.fromkeys(facts_of("software"), False)


class TestFlashInfer:
    FACTS = tuple(fact for fact in facts_of("software") if fact.startswith("flashinfer"))

    def test_complete(self, fake):
        install_flashinfer(fake)
        install_cute_dsl(fake)
        found = software(fake.system())
        assert {fact: found[fact] for fact in self.FACTS} == dict.fromkeys(self.FACTS, True)

    def test_without_the_cute_dsl(self, fake):
        install_flashinfer(fake)
        found = software(fake.system())
        assert found["flashinfer_trtllm_fused_moe"] is True
        assert found["flashinfer_cutlass_fused_moe"] is True
        for fact in ("cutedsl_grouped_gemm", "cutedsl_moe_nvfp4", "b12x_moe"):
            assert found[f"flashinfer_{fact}"] is False

    def test_needs_cubins_or_a_compiler(self, fake):
        install_flashinfer(fake, cubin=False)
        assert software(fake.system())["flashinfer"] is False
        assert software(fake.system())["flashinfer_trtllm_fused_moe"] is False
        assert software(fake.system(VLLM_HAS_FLASHINFER_CUBIN="1"))["flashinfer"] is True
        compiler = dataclasses.replace(
            fake.system(CUDA_HOME="/opt/cuda"),
            which=lambda name: name if name in ("/opt/cuda/bin/nvcc", "ninja") else None,
        )
        assert software(compiler)["flashinfer"] is True

    def test_missing_entry_point(self, fake):
        install_flashinfer(fake)
        old = FUSED_MOE.replace("trtllm_mxint4_block_scale_moe", "other").split("def __getattr__")
        fake.package("flashinfer/fused_moe/__init__.py", old[0])
        found = software(fake.system())
        assert found["flashinfer_trtllm_fused_moe"] is False
        assert found["flashinfer_cutlass_fused_moe"] is True

    def test_dynamic_module_is_unknown_not_false(self, fake):
        install_flashinfer(fake)
        fake.package("flashinfer/fused_moe/__init__.py", "from .core import *\n")
        assert software(fake.system())["flashinfer_trtllm_fused_moe"] == "unknown"
        assert "flashinfer_trtllm_fused_moe" not in probe(fake.system()).machine.software

    def test_situ(self, fake):
        install_flashinfer(fake, enum="Gelu = 0")
        assert software(fake.system())["flashinfer_situ_activation"] is False
        fake.package("flashinfer/fused_moe/core.py", "from elsewhere import *\n")
        assert software(fake.system())["flashinfer_situ_activation"] == "unknown"


@pytest.mark.parametrize(
    ("file", "fact"),
    [
        ("deep_gemm/__init__.py", "deep_gemm"),
        ("triton_kernels/__init__.py", "triton_kernels"),
        ("humming/__init__.py", "humming"),
        ("hpc/__init__.py", "hpc"),
        ("quark/__init__.py", "quark"),
        ("aiter/__init__.py", "aiter"),
    ],
)
def test_installed_package_is_not_imported(fake, file, fact):
    fake.package(file, "raise RuntimeError('imported')")
    assert software(fake.system())[fact] is True


@pytest.mark.parametrize("package", ["deep_gemm", "triton_kernels"])
def test_vendored_copy_counts(fake, package):
    fake.package("vllm/__init__.py")
    assert software(fake.system())[package] is False
    fake.package(f"vllm/third_party/{package}/__init__.py")
    assert software(fake.system())[package] is True


def test_a_bare_folder_is_not_the_package(fake):
    fake.package("quark/notes.txt", "sources of something else")
    assert software(fake.system())["quark"] is False


def test_b12x_support_is_for_the_device_to_say(fake):
    fake.package("b12x/__init__.py")
    assert software(fake.system())["b12x_is_supported"] is False
    fake.package("b12x/moe/fused_moe/__init__.py")
    found = software(fake.system())
    assert (found["b12x_fused_moe"], found["b12x_is_supported"]) == (True, "unknown")


class TestAiter:
    def found(self, fake, source):
        fake.package("aiter/__init__.py")
        fake.package("aiter/fused_moe.py", source)
        found = software(fake.system())
        return found["aiter_fused_moe_gate_mode"], found["aiter_fused_moe_quant_dtype_a"]

    def test_parameters(self, fake):
        source = "def fused_moe(x, w1: Tensor, gate_mode=None, *, quant_dtype_a=None): ..."
        assert self.found(fake, source) == (True, True)

    def test_older_version(self, fake):
        assert self.found(fake, "def fused_moe(x, w1, w2, **kwargs): ...") == (False, False)

    @pytest.mark.parametrize(
        "source",
        ["@wrap\ndef fused_moe(gate_mode): ...", "from .impl import fused_moe", "def (:"],
    )
    def test_unreadable_signature_is_unknown(self, fake, source):
        assert self.found(fake, source) == ("unknown", "unknown")


class TestOperators:
    @pytest.mark.parametrize(
        ("file", "text", "fact"),
        [
            ("vllm/_C.abi3.so", "cutlass_group_gemm_supported(int x) -> bool",
             "cutlass_group_gemm_op"),
            ("vllm/_C_stable_libtorch.abi3.so", "mxfp4_experts_quant_supported",
             "mxfp4_experts_quant_op"),
            ("vllm/_rocm_C.abi3.so", "moe_gptq_gemm_rdna3(Tensor! c)", "rdna3_moe_op"),
            ("vllm/_C.abi3.so", "cpu_fused_moe_int8(Tensor a)", "cpu_fused_moe_int8_op"),
            ("zentorch/libzentorch.so", "zentorch_fused_moe(Tensor a)", "zentorch_fused_moe_op"),
            ("zentorch/libzentorch.so", "zentorch_woq_repack_weight(Tensor a)",
             "zentorch_woq_repack_op"),
        ],
    )  # fmt: skip
    def test_registered(self, fake, file, text, fact):
        package = file.split("/")[0]
        fake.package(f"{package}/__init__.py", "raise RuntimeError('imported')")
        fake.package(file, b"\x7fELF\0" + text.encode() + b"\0rest")
        found = software(fake.system())
        assert found[fact] is True
        operators = {f for f in found if f.endswith("_op")}
        assert [f for f in operators if found[f]] == [fact]

    def test_longer_name_is_another_operator(self, fake):
        fake.package("vllm/__init__.py")
        fake.package("vllm/_C.abi3.so", b"\0cpu_fused_moe_int8_v2(Tensor a)\0_Zcpu_fused_moe_int8l")
        assert software(fake.system())["cpu_fused_moe_int8_op"] is False

    def test_empty_library(self, fake):
        fake.package("vllm/__init__.py")
        fake.package("vllm/_C.abi3.so", b"")
        assert software(fake.system())["cutlass_group_gemm_op"] is False

    def test_torch(self, fake):
        fake.package("torch/__init__.py", "raise RuntimeError('imported')")
        assert software(fake.system())["torch_dyn_quant_4bit_ops"] == "unknown"
        fake.package("torch/include/ATen/ops/_dyn_quant_matmul_4bit.h")
        assert software(fake.system())["torch_dyn_quant_4bit_ops"] is False
        fake.package("torch/include/ATen/ops/_dyn_quant_pack_4bit_weight.h")
        assert software(fake.system())["torch_dyn_quant_4bit_ops"] is True


class TestPackages:
    @pytest.mark.parametrize(
        ("source", "presence"),
        [
            ("def name(): ...", Presence.ALWAYS),
            ("class name: ...", Presence.ALWAYS),
            ("name = 1", Presence.ALWAYS),
            ("name: int = 1", Presence.ALWAYS),
            ("from x import y as name", Presence.ALWAYS),
            ("import name.x", Presence.ALWAYS),
            ("name: int", Presence.NEVER),
            ("from x import name as y", Presence.NEVER),
            ("def f():\n    name = 1", Presence.NEVER),
            ("if x():\n    name = 1", Presence.CONDITIONAL),
            ("try:\n    import a\nexcept ImportError:\n    name = None", Presence.CONDITIONAL),
            ("try:\n    import a\nfinally:\n    with a:\n        import name",
             Presence.CONDITIONAL),
            ("if TYPE_CHECKING:\n    import name", Presence.NEVER),
            ("if typing.TYPE_CHECKING:\n    pass\nelse:\n    import name", Presence.CONDITIONAL),
            ("from x import *", Presence.UNKNOWN),
            ("def __getattr__(n): ...", Presence.UNKNOWN),
            ("syntax error (", Presence.UNKNOWN),
        ],
    )  # fmt: skip
    def test_presence_of_a_name(self, fake, source, presence):
        fake.package("p/__init__.py", source)
        assert Packages(fake.system()).presence("p", "name") is presence

    def test_missing_module(self, fake):
        fake.package("p/__init__.py")
        packages = Packages(fake.system())
        assert packages.presence("p.q", "name") is Presence.NEVER
        assert packages.presence("q", "name") is Presence.NEVER

    def test_agrees_with_an_import(self):
        """What the source of a real package says is what importing it shows."""
        import importlib

        from moe_rules.machines.detection import System

        packages = Packages(System())
        for module in ("json", "concurrent.futures", "email", "yaml"):
            imported = importlib.import_module(module)
            for name in (*vars(imported), "no_such_name"):
                match packages.presence(module, name):
                    case Presence.ALWAYS:
                        assert hasattr(imported, name), (module, name)
                    case Presence.NEVER if not name.startswith("__"):
                        # submodules become attributes by being imported, not by a binding
                        path = f"{module}.{name}"
                        assert not hasattr(imported, name) or packages.source(path), path
