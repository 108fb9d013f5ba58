"""vLLM's own Python on a platform that is not there: its code is real, what it probes is not.

vLLM fixes much when it is imported (the FP8 dtype of its keys, branches by platform), so one
process simulates one platform, and :func:`start` must be called before anything imports vLLM.
Simulated are the device (:mod:`tools.record.devices`) and what is installed
(:mod:`tools.record.installed`); every answer that follows from them is vLLM's. Kernels cannot run.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from tools.record import devices, installed
from tools.record.places import FUSED_MOE, ORACLES, SURROUNDINGS, owner


class World:
    """What the simulated process has: ``software`` facts, and vLLM's current configuration."""

    def __init__(self, platform: Mapping[str, Any]) -> None:
        self.platform = platform
        self.software: dict[str, bool] = {}
        self._environ: dict[str, str] = {}

    def set(
        self,
        software: Mapping[str, bool],
        environ: Mapping[str, str] | None = None,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        """Install ``software`` and nothing else; ``environ`` and ``engine`` as recorded cases."""
        environ = {**SURROUNDINGS.get(self.platform["kind"], {}), **(environ or {})}
        if (software, environ) != (self.software, self._environ):
            for name in self._environ:
                os.environ.pop(name, None)
            os.environ.update(environ)
            self.software, self._environ = dict(software), environ
            installed.refresh(self.platform["kind"], self.software)
        config: Any = importlib.import_module("vllm.config.vllm")
        config._current_vllm_config = _vllm_config(engine or {})

    def has(self, fact: str) -> bool:
        """Whether software is installed, or the platform has a feature."""
        return bool(self.software.get(fact, self.platform.get(fact, False)))


def start(platform: Mapping[str, Any]) -> World:
    """Simulate a platform as recorded cases describe it, and import vLLM's oracles.

    Raises RuntimeError if vLLM is imported already, ValueError for a platform of no known kind.
    """
    if "vllm" in sys.modules:
        raise RuntimeError("vLLM fixes its platform when it is imported: start a new process")
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        del os.environ[name]
    os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"
    devices.before_import(platform)
    platforms: Any = importlib.import_module("vllm.platforms")
    platforms._current_platform = devices.device(platform)
    world = World(platform)
    for oracle in ORACLES.values():
        owner(oracle.selector)
    installed.replace_probes(world.has)
    if platform["kind"] == "cpu":
        installed.hide_from_cpu_kernels(world.has, platform["os"])
    installed.fake_humming()
    config: Any = importlib.import_module(f"{FUSED_MOE}.config")
    group = SimpleNamespace(rank_in_group=0)
    config.get_dp_group = config.get_pcp_group = lambda: group
    config.get_tensor_model_parallel_rank = lambda: 0
    return world


def _vllm_config(engine: Mapping[str, Any]) -> Any:
    """What selection reads of a VllmConfig; ``engine`` as the "runtime" of recorded cases."""
    from vllm.config.quantization import QuantizationConfigArgs, QuantSpec

    override = engine.get("moe_activation_override")
    arguments = None
    if override is not None:
        arguments = QuantizationConfigArgs(moe=QuantSpec(activation=override))
    text = SimpleNamespace(model_type=engine.get("model_type"))
    model = SimpleNamespace(hf_text_config=text, hf_config=text, quantization_config=arguments)
    parallel = SimpleNamespace(
        enable_dbo=engine.get("enable_dbo", False), enable_eplb=engine.get("enable_eplb", False)
    )
    return SimpleNamespace(
        model_config=None if engine.get("no_model_config") else model,
        parallel_config=parallel,
        weight_transfer_config=SimpleNamespace() if engine.get("weight_transfer") else None,
    )
