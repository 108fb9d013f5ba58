import dataclasses
import subprocess
import sys

import pytest

from moe_rules.machines.detection import detect, probe
from moe_rules.machines.machine import Machine

H100 = ("NVIDIA H100 80GB HBM3", "GPU-aaaa0000-1111", (9, 0))
L40S = ("NVIDIA L40S", "GPU-bbbb0000-2222", (8, 9))


def platform_of(system):
    return dict(probe(system).machine.platform)


class TestCuda:
    def test_one_gpu(self, fake):
        nvml = fake.nvml(H100)
        assert platform_of(fake.system()) == {
            "device": "cuda",
            "device_name": "NVIDIA H100 80GB HBM3",
            "compute_capability": (9, 0),
        }
        assert nvml.started == 0  # shut down again

    @pytest.mark.parametrize(
        ("value", "capability"),
        [
            ("0", (9, 0)),
            ("1", (8, 9)),
            ("1,0", (8, 9)),
            ("GPU-bbbb", (8, 9)),
            ("GPU-aaaa0000-1111,1", (9, 0)),
            ("0,99,1", (9, 0)),
        ],
    )
    def test_first_visible_gpu_answers(self, fake, value, capability):
        fake.nvml(H100, L40S)
        system = fake.system(CUDA_VISIBLE_DEVICES=value)
        assert platform_of(system)["compute_capability"] == capability

    @pytest.mark.parametrize("value", ["", "-1", "7", "GPU-cccc"])
    def test_hidden_gpus_leave_a_cpu_and_a_note(self, fake, value):
        fake.nvml(H100, L40S)
        detection = probe(fake.system(CUDA_VISIBLE_DEVICES=value))
        assert detection.machine.device == "cpu"
        assert any("hides all 2 GPUs" in note for note in detection.notes)

    def test_different_gpus_are_noted(self, fake):
        fake.nvml(H100, L40S)
        (note,) = probe(fake.system()).notes
        assert "NVIDIA L40S (8.9)" in note

    def test_equal_gpus_are_not_noted(self, fake):
        fake.nvml(H100, H100)
        assert probe(fake.system()).notes == ()

    def test_mig_instance_is_on_one_of_the_gpus(self, fake):
        fake.nvml(H100)
        detection = probe(fake.system(CUDA_VISIBLE_DEVICES="MIG-1234"))
        assert detection.machine.platform["compute_capability"] == (9, 0)
        assert "MIG" in detection.notes[0]

    def test_driver_that_does_not_start(self, fake):
        fake.nvml(H100, init_status=18)
        detection = probe(fake.system())
        assert detection.machine.device == "cpu"
        assert "NVML error 18" in detection.notes[0]

    def test_driver_without_a_gpu(self, fake):
        fake.nvml()
        assert platform_of(fake.system())["device"] == "cpu"

    def test_jetson_without_nvml(self, fake):
        fake.file("/proc/device-tree/compatible", "nvidia,p3971-0089\0nvidia,tegra264\0")
        fake.file("/proc/device-tree/model", "NVIDIA Jetson AGX Thor Developer Kit\0")
        facts = platform_of(fake.system("aarch64"))
        assert facts["compute_capability"] == (11, 0)
        assert facts["device_name"] == "NVIDIA Jetson AGX Thor Developer Kit"


class TestRocm:
    @pytest.mark.parametrize(
        ("version", "gfx"),
        [
            (90008, "gfx908"),
            (90010, "gfx90a"),
            (90402, "gfx942"),
            (90500, "gfx950"),
            (100300, "gfx1030"),
            (110000, "gfx1100"),
            (110501, "gfx1151"),
            (120000, "gfx1200"),
            (120001, "gfx1201"),
            (120500, "gfx1250"),
        ],
    )
    def test_gfx_target(self, fake, version, gfx):
        fake.kfd(0, cpu_cores_count=96, gfx_target_version=0)
        fake.kfd(1, gfx_target_version=version, drm_render_minor=128)
        machine = probe(fake.system()).machine
        assert dict(machine.platform) == {"device": "rocm", "gfx": gfx}
        assert machine.name == gfx

    def test_product_name(self, fake):
        fake.kfd(1, gfx_target_version=90402, drm_render_minor=128)
        fake.file("/sys/class/drm/renderD128/device/product_name", "AMD Instinct MI300X OAM\n")
        assert probe(fake.system()).machine.name == "AMD Instinct MI300X OAM"

    def test_nodes_are_in_numeric_order(self, fake):
        fake.kfd(10, gfx_target_version=110000)
        fake.kfd(2, gfx_target_version=90402)
        assert platform_of(fake.system())["gfx"] == "gfx942"

    @pytest.mark.parametrize(
        ("environ", "gfx"),
        [
            ({"HIP_VISIBLE_DEVICES": "1"}, "gfx1100"),
            ({"CUDA_VISIBLE_DEVICES": "1"}, "gfx1100"),
            ({"ROCR_VISIBLE_DEVICES": "1"}, "gfx1100"),
            ({"ROCR_VISIBLE_DEVICES": "1,0", "HIP_VISIBLE_DEVICES": "1"}, "gfx942"),
            ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, "gfx942"),
            ({"HIP_VISIBLE_DEVICES": ""}, "gfx942"),
            ({"ROCR_VISIBLE_DEVICES": "GPU-00000000000000ff"}, "gfx1100"),
        ],
    )
    def test_visible_devices(self, fake, environ, gfx):
        fake.kfd(1, gfx_target_version=90402, unique_id=254)
        fake.kfd(2, gfx_target_version=110000, unique_id=255)
        assert platform_of(fake.system(**environ))["gfx"] == gfx

    def test_garbage_in_sysfs_is_no_gpu(self, fake):
        fake.file("/sys/class/kfd/kfd/topology/nodes/0/properties", "gfx_target_version zzz\n\0\n")
        assert platform_of(fake.system())["device"] == "cpu"


class TestXpu:
    def intel_gpu(self, fake, loader=True):
        uevent = "DRIVER=xe\nPCI_CLASS=30000\nPCI_ID=8086:E211\n"
        fake.file("/sys/class/drm/renderD128/device/uevent", uevent)
        if loader:
            fake.libraries["libze_loader.so.1"] = object()

    def test_gpu_with_loader(self, fake):
        self.intel_gpu(fake)
        assert platform_of(fake.system()) == {"device": "xpu"}

    def test_no_loader(self, fake):
        self.intel_gpu(fake, loader=False)
        detection = probe(fake.system())
        assert detection.machine.device == "cpu"
        assert "Level Zero" in detection.notes[0]

    @pytest.mark.parametrize(
        ("version", "device"),
        [("xpu: str | None = None\n", "cpu"), ("xpu: str | None = '20250301'\n", "xpu")],
    )
    def test_build_of_torch_decides(self, fake, version, device):
        self.intel_gpu(fake)
        fake.package("torch/__init__.py", "raise RuntimeError('imported')")
        fake.package("torch/version.py", version)
        assert platform_of(fake.system())["device"] == device

    def test_other_vendors_gpu(self, fake):
        fake.libraries["libze_loader.so.1"] = object()
        fake.file("/sys/class/drm/renderD128/device/uevent", "DRIVER=ast\nPCI_ID=1A03:2000\n")
        assert platform_of(fake.system())["device"] == "cpu"


class TestCpu:
    @pytest.mark.parametrize(
        ("cpuinfo", "expected"),
        [
            ("icelake", {"zen": False, "amx_tile": False, "amx_fp8": False}),
            ("sapphire", {"zen": False, "amx_tile": True, "amx_fp8": False}),
            ("epyc", {"zen": False, "amx_tile": False, "amx_fp8": False}),
            # AMX-FP8 cannot be seen on Linux: unknown, not false
            ("diamond", {"zen": False, "amx_tile": True}),
        ],
    )
    def test_x86(self, cpu, cpuinfo, expected):
        facts = platform_of(cpu(cpuinfo))
        assert facts == {"device": "cpu", "cpu_arch": "x86", "os": "linux", **expected}

    @pytest.mark.parametrize(("cpuinfo", "zen"), [("epyc", True), ("epyc-rome", False)])
    def test_zen_needs_avx512_and_zentorch(self, fake, cpu, cpuinfo, zen):
        fake.package("zentorch/__init__.py", "raise RuntimeError('imported')")
        assert platform_of(cpu(cpuinfo))["zen"] is zen

    def test_intel_with_zentorch_is_no_zen(self, fake, cpu):
        fake.package("zentorch/__init__.py")
        assert platform_of(cpu("icelake"))["zen"] is False

    @pytest.mark.parametrize(
        ("cpuinfo", "machine", "arch"),
        [
            ("graviton", "aarch64", "arm"),
            ("graviton", "armv7l", "arm"),
            ("power10", "ppc64le", "powerpc"),
            ("power10", "s390x", "s390x"),
            ("power10", "riscv64", "riscv"),
        ],
    )
    def test_other_architectures(self, cpu, cpuinfo, machine, arch):
        facts = platform_of(cpu(cpuinfo, machine))
        assert facts["cpu_arch"] == arch
        assert not any(facts[fact] for fact in ("zen", "amx_tile", "amx_fp8"))

    def test_apple_silicon(self, fake):
        facts = platform_of(fake.system("arm64", "darwin"))
        assert (facts["cpu_arch"], facts["os"]) == ("arm", "darwin")

    def test_what_is_not_known_is_left_out(self, fake):
        detection = probe(fake.system("loongarch64", "win32"))
        assert dict(detection.machine.platform) == {"device": "cpu"}
        unknown = {finding.fact for finding in detection.findings if not finding.known}
        assert {"cpu_arch", "os", "zen", "amx_tile", "amx_fp8"} <= unknown

    def test_unreadable_cpuinfo(self, fake):
        assert "amx_tile" not in platform_of(fake.system())


class TestChoice:
    def test_tpu(self, fake):
        fake.package("libtpu/__init__.py")
        assert platform_of(fake.system()) == {"device": "tpu"}
        assert platform_of(fake.system(JAX_PLATFORMS="proxy,cpu")) == {"device": "tpu"}

    def test_several_kinds_are_noted(self, fake):
        fake.nvml(H100)
        fake.kfd(1, gfx_target_version=110000)
        detection = probe(fake.system())
        assert detection.machine.device == "cuda"
        assert any("also found: rocm" in note for note in detection.notes)

    def test_cpu_can_be_asked_for(self, fake):
        fake.nvml(H100)
        detection = probe(fake.system(VLLM_TARGET_DEVICE="cpu"))
        assert detection.machine.device == "cpu"
        assert "VLLM_TARGET_DEVICE" in detection.notes[0]

    def test_cpu_build_of_vllm_ignores_the_gpu(self, fake):
        fake.nvml(H100)
        system = dataclasses.replace(fake.system(), distribution_version={"vllm": "0.33.0+cpu"}.get)
        assert platform_of(system)["device"] == "cpu"

    def test_platform_plugin_is_noted(self, fake):
        system = dataclasses.replace(fake.system(), entry_points=lambda group: ["ascend"])
        assert "'ascend'" in probe(system).notes[0]


def test_every_fact_has_one_finding(fake):
    from moe_rules.machines.machine import facts_of

    findings = [finding.fact for finding in probe(fake.system()).findings]
    assert len(findings) == len(set(findings))
    assert set(facts_of("software")) <= set(findings)
    assert all(finding.how for finding in probe(fake.system()).findings)


def test_this_machine_is_detected_without_heavy_imports():
    code = (
        "import sys; from moe_rules.machines.detection import detect; m = detect();"
        "heavy = {'torch', 'triton', 'pydantic', 'rich', 'vllm', 'flashinfer'} & set(sys.modules);"
        "assert not heavy, heavy; print(m.device)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == detect().device


def test_a_detected_machine_can_be_recorded_and_read_back(fake, tmp_path):
    from moe_rules.machines.machine import load_machine

    fake.nvml(H100)
    machine = probe(fake.system()).machine
    path = tmp_path / "machine.yaml"
    path.write_text(machine.to_yaml())
    assert load_machine(path) == machine
    assert isinstance(machine, Machine)
